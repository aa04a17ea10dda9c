//! A job's attempts (`att`) and its end (`fin`, `result`).

use std::time::Duration;

use bytes::Bytes;
use queue_core::{Codec, DeadReason, JobError, JobRecord, Payload, Timestamp};

use super::unsigned;

/// The layout of `att` that this program reads.
const ATT_VERSION: u8 = 1;
const ATT_BYTES: usize = 32;
/// A finished record without its result.
pub(crate) const END_BYTES: usize = 30;
/// A brief one (`lua/lib/brief.lua`), which most scripts answer as a whole one, and its first byte.
pub(crate) const BRIEF_END_BYTES: usize = 14;
pub(crate) const BRIEF_END: u8 = 20;
/// A finished record with this bit in its reason has its result elsewhere.
pub(crate) const RESULT_APART: u8 = 128;

/// What the store remembers of a job's attempts.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Attempts {
    pub(crate) failures: u16,
    pub(crate) stalls: u8,
    pub(crate) snoozes: u32,
    pub(crate) due_at: Timestamp,
    pub(crate) last_error: Option<JobError>,
}

/// Decodes `att`; `None` if there is none or it cannot be read.
pub(crate) fn unpack_attempts(bytes: &[u8]) -> Option<Attempts> {
    let fixed = bytes.get(..30).filter(|fixed| fixed[0] == ATT_VERSION)?;
    // A script that does not need the error leaves it out, with its length.
    let length = bytes.get(30..ATT_BYTES).map_or(0, unsigned);
    let error = bytes.get(ATT_BYTES..).unwrap_or_default();
    let error = &error[..error.len().min(usize::try_from(length).unwrap_or(usize::MAX))];
    Some(Attempts {
        failures: u16::try_from(unsigned(&fixed[1..3])).ok()?,
        stalls: fixed[3],
        snoozes: u32::try_from(unsigned(&fixed[4..8])).ok()?,
        due_at: Timestamp::from_ms(unsigned(&fixed[8..14])),
        last_error: JobError::decode(error).ok(),
    })
}

/// Fills in how a job ended from `fin`, and from its result if that is apart (else empty); leaves
/// the record alone if that cannot be read.
pub(crate) fn unpack_end(record: &mut JobRecord, bytes: &[u8], result: &[u8]) {
    let Some(fixed) = bytes.get(..END_BYTES) else { return };
    record.dead_reason = dead_reason(fixed);
    record.finished_at = Some(finished_at(fixed));
    let elapsed_ms = unsigned(&fixed[8..14]);
    // The largest number stands for "no worker finished it".
    record.elapsed =
        (elapsed_ms != Timestamp::MAX.as_ms()).then(|| Duration::from_millis(elapsed_ms));
    let apart = fixed[1] & RESULT_APART != 0;
    record.result = unpack_result(if apart { result } else { &bytes[END_BYTES..] });
}

/// Why a job is dead, of the fixed part of its end.
pub(crate) fn dead_reason(end: &[u8]) -> Option<DeadReason> {
    match end.get(1)? & !RESULT_APART {
        1 => Some(DeadReason::AttemptsExhausted),
        2 => Some(DeadReason::Failed),
        3 => Some(DeadReason::CrashLoop),
        4 => Some(DeadReason::Expired),
        _ => None,
    }
}

/// When a job was finished, of the fixed part of its end.
pub(crate) fn finished_at(end: &[u8]) -> Timestamp {
    Timestamp::from_ms(end.get(2..8).map_or(0, unsigned))
}

/// A result in its stored form: the codec's number and the bytes; empty for none.
pub(crate) fn pack_result(result: Option<&Payload>) -> Vec<u8> {
    let Some(result) = result else { return Vec::new() };
    let mut out = Vec::with_capacity(1 + result.bytes().len());
    out.push(result.codec().number());
    out.extend_from_slice(result.bytes());
    out
}

fn unpack_result(bytes: &[u8]) -> Option<Payload> {
    let (codec, rest) = bytes.split_first()?;
    Some(Payload::from_parts(Codec::from_number(*codec)?, Bytes::copy_from_slice(rest)))
}

#[cfg(test)]
mod tests {
    use super::super::ms6;
    use super::*;
    use queue_core::{ErrorKind, JobId, JobSpec, JobState, Kind, QueueName};

    fn record() -> JobRecord {
        let kind = Kind::new("a").unwrap();
        let spec = JobSpec::new(JobId::new(), QueueName::default(), kind, Payload::raw(""));
        JobRecord::new(spec, JobState::Completed, Timestamp::from_ms(1))
    }

    #[test]
    fn attempts_are_read_as_the_scripts_write_them() {
        let error = JobError::new(ErrorKind::Failed, "why").encode();
        let length = u16::try_from(error.len()).unwrap().to_be_bytes();
        let fixed = [&[1, 0, 2, 1, 0, 0, 0, 3][..], &ms6(99), &[7; 16]].concat();
        let att = [&fixed[..], &length, &error, b"of a newer program"].concat();
        let attempts = unpack_attempts(&att).unwrap();
        assert_eq!((attempts.failures, attempts.stalls, attempts.snoozes), (2, 1, 3));
        assert_eq!(attempts.due_at.as_ms(), 99);
        assert_eq!(attempts.last_error.unwrap().message, "why");
        assert_eq!(unpack_attempts(&fixed).unwrap().last_error, None);
        assert!(unpack_attempts(&att[..29]).is_none());
        assert!(unpack_attempts(&[&[2][..], &att[1..]].concat()).is_none());
    }

    #[test]
    fn ends_are_read_as_the_scripts_write_them() {
        let mut record = record();
        let result = Payload::json("done").unwrap();
        let fin = [&[4, 0][..], &ms6(55), &ms6(12), &[7; 16], &pack_result(Some(&result))];
        unpack_end(&mut record, &fin.concat(), &[]);
        assert_eq!(record.finished_at, Some(Timestamp::from_ms(55)));
        assert_eq!(record.elapsed, Some(Duration::from_millis(12)));
        assert_eq!(record.result.as_ref(), Some(&result));

        let apart = [&[4, RESULT_APART][..], &fin.concat()[2..30]].concat();
        unpack_end(&mut record, &apart, &pack_result(Some(&result)));
        assert_eq!((record.result, record.dead_reason), (Some(result), None));
    }
}
