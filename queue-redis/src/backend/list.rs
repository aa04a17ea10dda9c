//! Listings by state, in pages.

use queue_core::{Cursor, Error, JobState, JobSummary, ListRequest, Page, SUMMARY_ERROR_MAX_BYTES};

use super::quarantine::Unreadable;
use super::{RedisBackend, quarantine};
use crate::record::{dead_reason, finished_at, number_of, unpack_attempts, unpack_summary};
use crate::reply::{self, Items, unexpected};
use crate::scripts;
use crate::store::{self, Call, Repeat};

pub(super) async fn run(backend: &RedisBackend, request: &ListRequest) -> Result<Page, Error> {
    let ListRequest { state, queue, kind, limit, cursor } = request;
    let place = match cursor {
        None => Vec::new(),
        Some(cursor) => place_of(request, cursor)
            .ok_or_else(|| Error::BadRequest(format!("cursor {cursor} is not of this listing")))?,
    };
    let mut cmd = scripts::list.call(&backend.keys, 8, 256);
    cmd.arg(number_of(*state));
    cmd.arg(queue.as_ref().map_or("", |queue| queue.as_str()));
    cmd.arg(kind.as_ref().map_or("", |kind| kind.as_str()));
    cmd.arg((*limit).max(1));
    for part in place {
        cmd.arg(part);
    }
    let call = Call::script(&scripts::list, cmd);
    let mut items = Items::of(store::one(&backend.link, call, Repeat::Freely).await?)?;
    let now = items.timestamp()?;
    let next = reply::array(items.value()?)?.into_iter().map(reply::bytes);
    let next = next_cursor(request, &next.collect::<Result<Vec<_>, _>>()?)?;
    let quarantined = items.ids()?;
    let (mut jobs, mut unreadable) = (Vec::new(), Vec::new());
    for item in items.rest() {
        match summary(*state, Items::of(item)?)? {
            Ok(job) => jobs.push(job),
            Err(job) => unreadable.push(job),
        }
    }
    if *state != JobState::Running {
        quarantine::met(backend, &unreadable).await;
    }
    Ok(Page::new(now, jobs, quarantined, next))
}

/// The inner error is about the job's record.
fn summary(state: JobState, mut items: Items) -> Result<Result<JobSummary, Unreadable>, Error> {
    let id = reply::id(&items.bytes()?)?;
    let record = items.bytes()?;
    let mut job = match unpack_summary(id, state, &record) {
        Ok(job) => job,
        Err(reason) => return Ok(Err(Unreadable { id, reason, record })),
    };
    if let Some(attempts) = unpack_attempts(&items.bytes()?) {
        job.failures = attempts.failures;
        job.stalls = attempts.stalls;
        job.due_at = attempts.due_at;
        let error = attempts.last_error;
        job.last_error = error.map(|error| error.shortened(SUMMARY_ERROR_MAX_BYTES));
    }
    let end = items.bytes()?;
    if !end.is_empty() {
        job.dead_reason = dead_reason(&end);
        job.finished_at = Some(finished_at(&end));
    }
    Ok(Ok(job))
}

/// How a part of a place is written in a cursor, and checked.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// A name that the script made: legal as it is.
    Name,
    Number,
    /// An id as hexadecimal digits; of a member that is none, as much as an id has.
    Id,
}

/// What the place of a listing of this state is made of.
fn parts_of(state: JobState) -> &'static [Part] {
    match state {
        JobState::Ready => &[Part::Name, Part::Number, Part::Number, Part::Number],
        JobState::Scheduled | JobState::Retrying | JobState::Quarantined => {
            &[Part::Number, Part::Id]
        }
        JobState::Running => &[Part::Number, Part::Id, Part::Number],
        JobState::Completed | JobState::Dead | JobState::Cancelled => {
            &[Part::Name, Part::Number, Part::Id, Part::Number]
        }
    }
}

/// A cursor begins with what it is a cursor of.
fn listing_of(request: &ListRequest) -> String {
    let queue = request.queue.as_ref().map_or("*", |queue| queue.as_str());
    let kind = request.kind.as_ref().map_or("*", |kind| kind.as_str());
    format!("1,{},{queue},{kind}", request.state)
}

fn next_cursor(request: &ListRequest, place: &[Vec<u8>]) -> Result<Option<Cursor>, Error> {
    if place.is_empty() {
        return Ok(None);
    }
    let mut text = listing_of(request);
    for (part, bytes) in parts_of(request.state).iter().zip(place) {
        text.push(',');
        match part {
            Part::Name | Part::Number => text.push_str(&String::from_utf8_lossy(bytes)),
            Part::Id => {
                bytes.iter().take(16).for_each(|byte| text.push_str(&format!("{byte:02x}")))
            }
        }
    }
    Cursor::new(text).map(Some).ok_or_else(|| unexpected("a place that is none"))
}

/// The place that a cursor stands for; `None` if it is not of this listing.
fn place_of(request: &ListRequest, cursor: &Cursor) -> Option<Vec<Vec<u8>>> {
    let rest = cursor.as_str().strip_prefix(&listing_of(request))?.strip_prefix(',')?;
    let parts = parts_of(request.state);
    let texts: Vec<&str> = rest.split(',').collect();
    if texts.len() != parts.len() {
        return None;
    }
    parts.iter().zip(texts).map(|(part, text)| read_part(*part, text)).collect()
}

fn read_part(part: Part, text: &str) -> Option<Vec<u8>> {
    let is_number = |text: &str| {
        (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    match part {
        Part::Name => Some(text.as_bytes().to_vec()),
        Part::Number => is_number(text).then(|| text.as_bytes().to_vec()),
        Part::Id => {
            let digits = text.as_bytes();
            if digits.len() > 32
                || !digits.len().is_multiple_of(2)
                || !digits.iter().all(u8::is_ascii_hexdigit)
            {
                return None;
            }
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            digits.chunks(2).map(byte).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use queue_core::QueueName;

    #[test]
    fn a_cursor_leads_to_its_place_in_its_own_listing_only() {
        for state in JobState::ALL {
            let request = ListRequest::new(state);
            let place: Vec<Vec<u8>> = parts_of(state)
                .iter()
                .map(|part| match part {
                    Part::Name => b"default/a".to_vec(),
                    Part::Number => b"4102444800000".to_vec(),
                    Part::Id => vec![0xc3; 16],
                })
                .collect();
            let cursor = next_cursor(&request, &place).unwrap().unwrap();
            assert_eq!(place_of(&request, &cursor), Some(place));
            let of_queue = ListRequest { queue: Some(QueueName::default()), ..request.clone() };
            assert_eq!(place_of(&of_queue, &cursor), None);
            for other in JobState::ALL.into_iter().filter(|other| *other != state) {
                assert_eq!(place_of(&ListRequest::new(other), &cursor), None);
            }
            let cut = &cursor.as_str()[..cursor.as_str().len() - 13];
            assert_eq!(place_of(&request, &Cursor::new(cut).unwrap()), None);
        }
        assert!(next_cursor(&ListRequest::new(JobState::Dead), &[]).unwrap().is_none());
    }
}
