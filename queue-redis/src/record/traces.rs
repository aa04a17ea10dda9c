//! What attempts leave behind: the history of failures (`history`), progress and log lines
//! (`log`). Laid out in `lua/lib/history.lua` and `lua/lib/log.lua`.

use std::time::Duration;

use queue_core::{AttemptRecord, JobError, LogLine, Progress, Timestamp, WorkerId};

use super::unsigned;

const HISTORY_VERSION: u8 = 1;
const LOG_VERSION: u8 = 1;

/// Takes `count` bytes off the front.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn number(bytes: &mut &[u8], count: usize) -> Option<u64> {
    take(bytes, count).map(unsigned)
}

fn length(bytes: &mut &[u8]) -> Option<usize> {
    usize::try_from(number(bytes, 2)?).ok()
}

/// Parts that each begin with their length, as far as they are whole.
fn parts(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let count = length(&mut bytes)?;
        take(&mut bytes, count)
    })
}

/// Decodes a history, as far as it can be read.
pub(crate) fn unpack_history(bytes: &[u8]) -> Vec<AttemptRecord> {
    match bytes.split_first() {
        Some((&HISTORY_VERSION, entries)) => parts(entries).filter_map(attempt).collect(),
        _ => Vec::new(),
    }
}

fn attempt(mut entry: &[u8]) -> Option<AttemptRecord> {
    let entry = &mut entry;
    let attempt = u16::try_from(number(entry, 2)?).ok()?;
    let ended_at = Timestamp::from_ms(number(entry, 6)?);
    let elapsed = Duration::from_millis(number(entry, 6)?);
    let end = number(entry, 1)?;
    let worker_bytes = usize::try_from(number(entry, 1)?).ok()?;
    let worker = std::str::from_utf8(take(entry, worker_bytes)?).ok();
    let worker = worker.and_then(|name| WorkerId::new(name).ok());
    match end {
        0 => {
            let error = JobError::decode(entry).ok()?;
            Some(AttemptRecord::failed(attempt, worker, ended_at, &error, elapsed))
        }
        1 => Some(AttemptRecord::lease_expired(attempt, worker, ended_at)),
        _ => None,
    }
}

/// What a job told about itself.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Told {
    pub(crate) progress: Option<Progress>,
    pub(crate) lines: Vec<LogLine>,
}

/// Decodes progress and log lines, as far as they can be read.
pub(crate) fn unpack_log(mut bytes: &[u8]) -> Told {
    told(&mut bytes).unwrap_or_default()
}

fn told(bytes: &mut &[u8]) -> Option<Told> {
    if number(bytes, 1)? != u64::from(LOG_VERSION) {
        return None;
    }
    // The number of the last line, and what the running attempt has counted.
    take(bytes, 6 + 6 + 16)?;
    let percent = u8::try_from(number(bytes, 1)?).ok()?;
    let (text_bytes, rest_bytes) = (length(bytes)?, length(bytes)?);
    let text = String::from_utf8_lossy(take(bytes, text_bytes)?);
    take(bytes, rest_bytes)?;
    let progress = (percent <= 100).then(|| Progress::new(percent, text));
    Some(Told { progress, lines: parts(bytes).filter_map(line).collect() })
}

fn line(mut part: &[u8]) -> Option<LogLine> {
    let part = &mut part;
    let (place, at) = (number(part, 6)?, Timestamp::from_ms(number(part, 6)?));
    let attempt = u16::try_from(number(part, 2)?).ok()?;
    Some(LogLine::new(place, at, attempt, String::from_utf8_lossy(part).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::ms6;
    use super::*;
    use queue_core::{AttemptEnd, ErrorKind};

    fn history() -> Vec<u8> {
        let error = JobError::new(ErrorKind::Failed, "why").encode();
        let failed = [&[0, 3][..], &ms6(99), &ms6(12), &[0, 2], b"w1", &error].concat();
        let lost = [&[0, 4][..], &ms6(100), &ms6(0), &[1, 0]].concat();
        let part = |bytes: Vec<u8>| {
            [u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec(), bytes].concat()
        };
        [vec![1], part(failed), part(lost)].concat()
    }

    fn log() -> Vec<u8> {
        let fixed = [&[1][..], &ms6(8), &ms6(2), &[9; 16], &[40, 0, 4, 0, 2], b"textxx"].concat();
        let line = [&[0, 16][..], &ms6(8), &ms6(77), &[0, 1], b"hi"].concat();
        [fixed, line].concat()
    }

    #[test]
    fn a_history_is_read_as_the_scripts_write_it() {
        let [failed, lost] = &unpack_history(&history())[..] else { panic!("not two") };
        assert_eq!((failed.number, failed.ended_at.as_ms()), (3, 99));
        assert_eq!(failed.worker.as_ref().unwrap().as_str(), "w1");
        let AttemptEnd::Failed { error, elapsed } = &failed.end else { panic!("{failed:?}") };
        assert_eq!((error.message.as_str(), elapsed.as_millis()), ("why", 12));
        assert_eq!((lost.number, &lost.worker, &lost.end), (4, &None, &AttemptEnd::LeaseExpired));
    }

    #[test]
    fn a_log_is_read_as_the_scripts_write_it() {
        let told = unpack_log(&log());
        assert_eq!(told.progress, Some(Progress::new(40, "text")));
        let line = LogLine::new(8, Timestamp::from_ms(77), 1, "hi".to_owned());
        assert_eq!(told.lines, [line]);
    }

    #[test]
    fn damaged_traces_are_read_as_far_as_they_go() {
        for (whole, end) in [(history(), 0), (log(), 1)] {
            for cut in 0..whole.len() {
                let read = (unpack_history(&whole[..cut]), unpack_log(&whole[..cut]));
                assert!(end == 1 || read.0.len() < 2);
                assert!(end == 0 || read.1.lines.is_empty());
            }
            for at in 0..whole.len() {
                let mut flipped = whole.clone();
                flipped[at] ^= 0xff;
                let _ = (unpack_history(&flipped), unpack_log(&flipped));
            }
        }
    }
}
