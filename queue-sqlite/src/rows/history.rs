//! The stored history of a job: what its last failed and lost attempts left behind.
//!
//! Format 1: a byte 1, then entries, oldest first. An entry is its length in bytes (`u32`), the
//! number of the attempt (`u16`), the time of its end (`u64`, milliseconds), how it ended (a byte:
//! 0 its lease expired, 1 it failed), how long it took (`u64`, milliseconds), its worker (a length
//! as a byte, then the name; none if 0) and its error (a length as `u16`, then the stored form of
//! a [`JobError`]; none if 0). Numbers are little-endian.
//!
//! Entries are only ever added and dropped, never written again, and what stands in an entry after
//! the error is skipped: what a newer program adds there survives an older one.

use std::time::Duration;

use queue_core::{
    AttemptEnd, AttemptRecord, ErrorKind, HISTORY_MAX, JobError, Timestamp, WorkerId,
};

const FORMAT: u8 = 1;
const LEASE_EXPIRED: u8 = 0;
const FAILED: u8 = 1;

/// The history `stored`, if there is one, with one more attempt at its end and without those that
/// are too many then. One that cannot be read begins anew.
pub(crate) fn with(stored: Option<&[u8]>, attempt: &AttemptRecord) -> Vec<u8> {
    let known = stored.and_then(|stored| entries(stored).ok()).unwrap_or_default();
    let mut bytes = vec![FORMAT];
    for entry in known.iter().skip((known.len() + 1).saturating_sub(HISTORY_MAX)) {
        push(&mut bytes, entry);
    }
    push(&mut bytes, &encode(attempt));
    bytes
}

/// Reads a stored history.
///
/// # Errors
/// What is wrong with it, without its bytes.
pub(crate) fn decode(stored: &[u8]) -> Result<Vec<AttemptRecord>, String> {
    entries(stored)?.into_iter().map(attempt).collect()
}

fn push(bytes: &mut Vec<u8>, entry: &[u8]) {
    let length = u32::try_from(entry.len()).unwrap_or(u32::MAX);
    bytes.extend(length.to_le_bytes());
    bytes.extend(entry);
}

fn entries(stored: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut rest = Rest(stored);
    match rest.array::<1>() {
        Some([FORMAT]) => {}
        Some([format]) => return Err(format!("its history has format {format}")),
        None => return Err("its history is empty".to_owned()),
    }
    let mut found = Vec::new();
    while !rest.0.is_empty() {
        let length = rest.array().map(u32::from_le_bytes).and_then(|n| usize::try_from(n).ok());
        found.push(length.and_then(|length| rest.take(length)).ok_or_else(cut_off)?);
    }
    Ok(found)
}

fn cut_off() -> String {
    "its history is cut off".to_owned()
}

fn encode(attempt: &AttemptRecord) -> Vec<u8> {
    let (end, elapsed, error) = match &attempt.end {
        AttemptEnd::Failed { error, elapsed } => (FAILED, *elapsed, error.encode()),
        _ => (LEASE_EXPIRED, Duration::ZERO, Vec::new()),
    };
    let worker = attempt.worker.as_ref().map_or("", |worker| worker.as_str()).as_bytes();
    let mut bytes = Vec::with_capacity(22 + worker.len() + error.len());
    bytes.extend(attempt.number.to_le_bytes());
    bytes.extend(attempt.ended_at.as_ms().to_le_bytes());
    bytes.push(end);
    bytes.extend(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).to_le_bytes());
    // A name has at most 64 bytes, and an error of the history little more than 1 KiB.
    bytes.push(u8::try_from(worker.len()).unwrap_or(0));
    bytes.extend(worker);
    bytes.extend(u16::try_from(error.len()).unwrap_or(0).to_le_bytes());
    bytes.extend(error);
    bytes
}

fn attempt(entry: &[u8]) -> Result<AttemptRecord, String> {
    let mut rest = Rest(entry);
    let mut read = || {
        let number = u16::from_le_bytes(rest.array()?);
        let ended_at = Timestamp::from_ms(u64::from_le_bytes(rest.array()?)).min(Timestamp::MAX);
        let [end] = rest.array()?;
        let elapsed = Duration::from_millis(u64::from_le_bytes(rest.array()?));
        let [worker] = rest.array()?;
        let worker = rest.take(usize::from(worker))?;
        let error = usize::from(u16::from_le_bytes(rest.array()?));
        let error = rest.take(error)?;
        Some((number, ended_at, end, elapsed, worker, error))
    };
    let (number, ended_at, end, elapsed, worker, error) = read().ok_or_else(cut_off)?;
    // A label for people: one that cannot be read is left out.
    let worker = std::str::from_utf8(worker).ok().and_then(|name| WorkerId::new(name).ok());
    if end == LEASE_EXPIRED {
        return Ok(AttemptRecord::lease_expired(number, worker, ended_at));
    }
    let unread = |_| JobError::new(ErrorKind::Failed, "(the stored error cannot be read)");
    let error = JobError::decode(error).unwrap_or_else(unread);
    Ok(AttemptRecord::failed(number, worker, ended_at, &error, elapsed))
}

/// Bytes that have not been read yet.
pub(super) struct Rest<'b>(pub(super) &'b [u8]);

impl<'b> Rest<'b> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(number: u16) -> AttemptRecord {
        let error = JobError::new(ErrorKind::TimedOut, "no");
        let worker = Some(WorkerId::new("w-1").unwrap());
        AttemptRecord::failed(
            number,
            worker,
            Timestamp::from_ms(0x0102_0304),
            &error,
            Duration::from_millis(258),
        )
    }

    /// Format 1 as it is in the files that are out there.
    const GOLDEN: &str = "01 \
        34000000 0700 0403020100000000 01 0201000000000000 03772d31 \
        1b00 82a46b696e64a974696d65645f6f7574a76d657373616765a26e6f \
        16000000 0800 0500000000000000 00 0000000000000000 00 0000";

    fn golden() -> Vec<u8> {
        let digits: String = GOLDEN.split_whitespace().collect();
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (0..digits.len()).step_by(2).map(byte).collect()
    }

    #[test]
    fn the_format_is_what_it_was() {
        let lost = AttemptRecord::lease_expired(8, None, Timestamp::from_ms(5));
        let written = with(Some(&with(None, &failed(7))), &lost);
        let hex: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(written, golden(), "{hex}");
        assert_eq!(decode(&golden()).unwrap(), [failed(7), lost]);
    }

    #[test]
    fn only_the_last_attempts_are_kept() {
        let mut stored = None;
        for number in 1..=25 {
            stored = Some(with(stored.as_deref(), &failed(number)));
        }
        let numbers: Vec<u16> =
            decode(&stored.unwrap()).unwrap().iter().map(|attempt| attempt.number).collect();
        assert_eq!(numbers, (6..=25).collect::<Vec<_>>());
    }

    #[test]
    fn what_a_newer_program_adds_to_an_entry_survives() {
        let mut newer = vec![FORMAT];
        let mut entry = encode(&failed(1));
        entry.extend(b"more");
        push(&mut newer, &entry);
        assert_eq!(decode(&newer).unwrap(), [failed(1)]);
        let added = with(Some(&newer), &failed(2));
        assert_eq!(decode(&added).unwrap(), [failed(1), failed(2)]);
        assert!(added.windows(4).any(|bytes| bytes == b"more"));
    }

    #[test]
    fn garbage_is_an_error_and_a_new_history_replaces_it() {
        let whole = with(None, &failed(1));
        for end in 2..whole.len() {
            assert!(decode(&whole[..end]).is_err(), "{end}");
        }
        for garbage in [&b""[..], &[2, 0, 0], &[1, 255, 255, 255, 255], &[1, 0, 0, 0, 0]] {
            assert!(decode(garbage).is_err(), "{garbage:?}");
        }
        assert_eq!(decode(&with(Some(&[9]), &failed(3))).unwrap(), [failed(3)]);
    }
}
