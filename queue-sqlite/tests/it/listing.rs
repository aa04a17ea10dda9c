//! What listings cost, and what happens to jobs that they meet.

use std::time::Duration;

use queue_core::{
    Backend, ClaimRequest, ErrorKind, JobError, JobId, JobState, ListRequest, NewJob, Outcome,
};

use crate::support::{STORED, beside, completion, fast, job, request};

#[tokio::test]
async fn a_filter_that_fits_few_jobs_makes_short_pages_not_long_ones() {
    let directory = tempfile::tempdir().unwrap();
    let backend = fast(&directory.path().join("queue.db"));
    let later = Duration::from_secs(3600);
    for _ in 0..3 {
        let jobs: Vec<NewJob> = (0..500).map(|n| job(n.to_string()).delay(later)).collect();
        backend.enqueue(&jobs, STORED).await.unwrap();
    }
    let rare = job("rare").queue("rare").delay(later * 2);
    backend.enqueue(std::slice::from_ref(&rare), STORED).await.unwrap();
    let queue = Some("rare".parse().unwrap());
    let mut request = ListRequest { queue, ..ListRequest::new(JobState::Scheduled) };
    let mut pages = Vec::new();
    loop {
        let page = backend.list(&request).await.unwrap();
        pages.push(page.jobs.iter().map(|job| job.id).collect::<Vec<JobId>>());
        request.cursor = page.next;
        if request.cursor.is_none() {
            break;
        }
    }
    let none = Vec::new;
    assert_eq!(pages, [none(), none(), none(), vec![rare.job_id()]]);
}

#[tokio::test]
async fn many_lanes_and_shelves_without_jobs_of_the_state_are_passed_in_steps() {
    let directory = tempfile::tempdir().unwrap();
    let backend = fast(&directory.path().join("queue.db"));
    let in_queue = |n: usize| job("x").queue(format!("q{n:04}"));
    for first in [0, 400] {
        let jobs: Vec<NewJob> = (first..first + 400).map(in_queue).collect();
        backend.enqueue(&jobs, STORED).await.unwrap();
        let ids: Vec<JobId> = jobs.iter().map(NewJob::job_id).collect();
        backend.cancel(&ids).await.unwrap();
    }
    let last = job("x").queue("z");
    backend.enqueue(std::slice::from_ref(&last), STORED).await.unwrap();
    let dead = job("x").queue("zz");
    backend.enqueue(std::slice::from_ref(&dead), STORED).await.unwrap();
    let queues = vec!["zz".parse().unwrap()];
    let claim = backend.claim(&ClaimRequest { queues, ..request(1) }).await.unwrap();
    let mut ends = completion(&claim.leases);
    ends.settlements[0].outcome = Outcome::Dead { error: JobError::new(ErrorKind::Failed, "no") };
    backend.settle(&ends).await.unwrap();
    let numbers = [(JobState::Ready, 1), (JobState::Cancelled, 800), (JobState::Dead, 1)];
    for (state, expected) in numbers {
        let mut request = ListRequest::new(state);
        let mut found = Vec::new();
        for _ in 0..10 {
            let page = backend.list(&request).await.unwrap();
            found.extend(page.jobs.iter().map(|job| job.id));
            request.cursor = page.next;
            if request.cursor.is_none() {
                break;
            }
        }
        assert_eq!(request.cursor, None);
        assert_eq!(found.len(), expected, "{state}");
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), expected, "{state}");
    }
}

#[tokio::test]
async fn a_job_that_a_listing_cannot_read_is_quarantined() {
    let directory = tempfile::tempdir().unwrap();
    let backend = fast(&directory.path().join("queue.db"));
    let jobs = [job("a"), job("b")];
    backend.enqueue(&jobs, STORED).await.unwrap();
    let damage = "PRAGMA ignore_check_constraints = 1; UPDATE job SET stalls = -1 WHERE job = 1";
    beside(backend.path()).execute_batch(damage).unwrap();
    let page = backend.list(&ListRequest::new(JobState::Ready)).await.unwrap();
    assert_eq!(page.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [jobs[1].job_id()]);
    let page = backend.list(&ListRequest::new(JobState::Quarantined)).await.unwrap();
    assert_eq!(page.quarantined, [jobs[0].job_id()]);
    // Queue and kind are known, and filter.
    let queue = Some("other".parse().unwrap());
    let request = ListRequest { queue, ..ListRequest::new(JobState::Quarantined) };
    assert_eq!(backend.list(&request).await.unwrap().quarantined, []);
}

#[tokio::test]
async fn more_quarantined_jobs_than_a_page_holds_are_all_listed() {
    let directory = tempfile::tempdir().unwrap();
    let backend = fast(&directory.path().join("queue.db"));
    for _ in 0..2 {
        let jobs: Vec<NewJob> = (0..300).map(|n| job(n.to_string())).collect();
        backend.enqueue(&jobs, STORED).await.unwrap();
    }
    beside(backend.path()).execute("UPDATE job SET options = x'c1'", []).unwrap();
    while backend.claim(&request(1)).await.unwrap().more {}
    let mut request = ListRequest::new(JobState::Quarantined);
    let mut found = Vec::new();
    loop {
        let page = backend.list(&request).await.unwrap();
        found.extend(page.quarantined);
        request.cursor = page.next;
        if request.cursor.is_none() {
            break;
        }
    }
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 600);
}
