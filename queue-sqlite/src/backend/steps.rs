//! A claim takes the same steps of SQLite's virtual machine for any backlog.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use queue_core::backend::PASS_MAX;
use queue_core::{
    ClaimRequest, ClaimToken, Due, Durability, KindSlots, LimitSettings, LimitTarget, NewJob,
    Payload, QueueName, Retention, WorkerId,
};

use super::{cancel, claim, enqueue, limits};
use crate::SqliteOptions;
use crate::open::{Opened, Room, prepare};
use crate::session::Session;

fn job(n: u32) -> NewJob {
    let kind = if n.is_multiple_of(2) { "k" } else { "other" };
    let job = NewJob::new(kind.parse().unwrap(), Payload::raw("x"));
    if n.is_multiple_of(5) { job.delay(Duration::from_secs(3600)) } else { job }
}

fn request() -> ClaimRequest {
    ClaimRequest {
        token: ClaimToken::random(),
        worker: WorkerId::new("w").unwrap(),
        queues: vec![QueueName::default()],
        kinds: vec![KindSlots::new("k".parse().unwrap(), 10)],
        max: 10,
        round_jobs: 0,
        lease: Duration::from_secs(30),
    }
}

#[test]
fn a_claim_does_not_read_the_backlog() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let memory = RefCell::default();
    let Opened { mut conn, room, .. } = prepare(&path, &SqliteOptions::default()).unwrap();
    let steps = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&steps);
    let count = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        false
    };
    conn.progress_handler(1, Some(count)).unwrap();
    let mut taken = Vec::new();
    for batches in [4, 100] {
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut session = Session::new(&conn, &memory).unwrap();
        session.start_step();
        for batch in 0..batches {
            let jobs: Vec<NewJob> = (0..PASS_MAX).map(job).collect();
            enqueue::enqueue(&mut session, &jobs, Durability::Fsync, &room).unwrap();
            // Finished records of other queues, each with a shelf.
            let kept = Retention { completed: Duration::from_secs(60), dead: Duration::ZERO };
            let queue = |n| QueueName::new(format!("q{batch}-{n}")).unwrap();
            let done: Vec<NewJob> =
                (0..20).map(|n| job(5).queue(queue(n)).retention(kept)).collect();
            assert!(matches!(done[0].due, Due::After(_)));
            enqueue::enqueue(&mut session, &done, Durability::Fsync, &room).unwrap();
            let ids: Vec<_> = done.iter().map(NewJob::job_id).collect();
            cancel::cancel(&mut session, &ids).unwrap();
        }
        session.end_step().unwrap();
        // The first finds statements to be prepared.
        for measured in [false, true] {
            session.start_step();
            let before = steps.load(Ordering::Relaxed);
            let (claimed, _) = claim::claim(&mut session, &request(), &room).unwrap();
            session.end_step().unwrap();
            assert_eq!(claimed.leases.len(), 10);
            if measured {
                taken.push(steps.load(Ordering::Relaxed) - before);
            }
        }
        conn.execute_batch("COMMIT").unwrap();
    }
    assert!(taken[0] > 100, "{taken:?}");
    assert_eq!(taken[0], taken[1], "steps for 2 000 and for 52 000 jobs");
}

/// A store with this many lanes of two limit keys each, of which `provider:x` has no room.
fn with_blocked_lanes(session: &mut Session<'_>, room: &Room, lanes: u32) {
    let one = LimitSettings { concurrency: Some(1), ..LimitSettings::default() };
    let target = LimitTarget::new("provider:x").unwrap();
    limits::set_limit(session, &target, Some(&one)).unwrap();
    let tenant = |n: u32| {
        let job = NewJob::new("k".parse().unwrap(), Payload::raw("x"));
        job.limit("provider:x").limit(format!("tenant:{n}"))
    };
    for first in (0..lanes).step_by(PASS_MAX as usize) {
        let jobs: Vec<NewJob> = (first..lanes.min(first + PASS_MAX)).map(tenant).collect();
        enqueue::enqueue(session, &jobs, Durability::Fsync, room).unwrap();
    }
    let mut calls = 1;
    while claim::claim(session, &request(), room).unwrap().0.more {
        calls += 1;
        session.end_step().unwrap();
        session.start_step();
    }
    assert!(calls >= lanes / PASS_MAX, "{calls} calls");
    let jobs: Vec<NewJob> = (0..PASS_MAX).map(|n| job(2 * n + 2)).collect();
    enqueue::enqueue(session, &jobs, Durability::Fsync, room).unwrap();
}

#[test]
fn lanes_that_wait_cost_a_claim_nothing() {
    let mut taken = Vec::new();
    for lanes in [100, 4000] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let memory = RefCell::default();
        let Opened { mut conn, room, .. } = prepare(&path, &SqliteOptions::default()).unwrap();
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut session = Session::new(&conn, &memory).unwrap();
        session.start_step();
        with_blocked_lanes(&mut session, &room, lanes);
        session.end_step().unwrap();
        drop(session);
        let steps = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&steps);
        let count = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            false
        };
        conn.progress_handler(1, Some(count)).unwrap();
        let mut session = Session::new(&conn, &memory).unwrap();
        let measured = [false, true].map(|_| {
            session.reload().unwrap();
            session.start_step();
            let before = steps.load(Ordering::Relaxed);
            let (claimed, _) = claim::claim(&mut session, &request(), &room).unwrap();
            session.end_step().unwrap();
            assert_eq!(claimed.leases.len(), 10);
            assert!(claimed.leases.iter().all(|lease| lease.spec.limits.is_empty()));
            steps.load(Ordering::Relaxed) - before
        });
        // The first finds statements to be prepared.
        taken.push(measured[1]);
        conn.execute_batch("COMMIT").unwrap();
    }
    assert!(taken[0] > 100, "{taken:?}");
    assert_eq!(taken[0], taken[1], "steps for 100 and for 4 000 lanes that wait");
}
