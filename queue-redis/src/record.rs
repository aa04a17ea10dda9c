//! The packed records that scripts and this program both read: a job (`jobs`), its attempts
//! (`att`), its end (`fin`). The layout of the job's head is written out in `lua/lib/record.lua`.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use queue_core::{
    Codec, DeadReason, IdempotencyKey, JobError, JobId, JobOptions, JobRecord, JobSpec, JobState,
    Kind, Payload, Priority, QueueName, Retention, Timestamp,
};

/// The layout that this program writes. A record of another version cannot be decoded.
pub(crate) const VERSION: u8 = 1;
/// Version, enqueued_ms and due_ms, which only the store can know.
const TIMES_BYTES: usize = 13;
/// Everything before the queue's name.
const FIXED_BYTES: usize = 41;
/// Where the flags are.
const FLAGS_AT: usize = 34;
const HAS_EXPIRY: u8 = 1;
const BODY_APART: u8 = 2;
/// Payload and options, or a result, of more bytes than this live in a hash of their own: no pass
/// of a script over many records has to read them.
pub(crate) const INLINE_MAX_BYTES: usize = 1024;
/// A finished record with this bit in its reason has its result elsewhere.
pub(crate) const RESULT_APART: u8 = 128;

fn unsigned(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The six bytes of milliseconds; later times become the last one there is.
pub(crate) fn ms6(ms: u64) -> [u8; 6] {
    let [_, _, bytes @ ..] = ms.min(Timestamp::MAX.as_ms()).to_be_bytes();
    bytes
}

/// Whole milliseconds, at most what six bytes hold.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(Timestamp::MAX.as_ms())
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// Lengths are of validated names, keys and payloads and always fit.
fn length<T: TryFrom<usize> + Default>(bytes: usize) -> T {
    T::try_from(bytes).unwrap_or_default()
}

/// A job as enqueue stores it.
#[derive(Debug, PartialEq)]
pub(crate) struct PackedJob {
    /// The record without its first 13 bytes, which the script puts before it.
    pub(crate) record: Vec<u8>,
    /// Payload and options, if they are too large for the record.
    pub(crate) body: Option<Vec<u8>>,
}

impl PackedJob {
    pub(crate) fn bytes(&self) -> usize {
        self.record.len() + self.body.as_ref().map_or(0, Vec::len)
    }
}

/// Puts a job into its stored form.
pub(crate) fn pack_job(spec: &JobSpec) -> PackedJob {
    let (queue, kind) = (spec.queue.as_str(), spec.kind.as_str());
    let key = spec.idempotency_key.as_ref().map_or("", IdempotencyKey::as_str);
    let payload = spec.payload.bytes();
    let options = spec.options.encode();
    let body_bytes = payload.len() + options.len();
    let apart = body_bytes > INLINE_MAX_BYTES;
    let inline_bytes = if apart { 0 } else { body_bytes };
    let names = queue.len() + kind.len() + key.len();
    let mut out = Vec::with_capacity(FIXED_BYTES + names + inline_bytes);
    out.extend(length::<u32>(payload.len()).to_be_bytes());
    out.extend(length::<u16>(key.len()).to_be_bytes());
    out.push(spec.payload.codec().number());
    out.push(length(queue.len()));
    out.push(length(kind.len()));
    out.push(spec.priority.level());
    out.extend(spec.max_attempts.to_be_bytes());
    out.push(spec.max_stalls);
    out.extend(seconds(spec.retention.completed).to_be_bytes());
    out.extend(seconds(spec.retention.dead).to_be_bytes());
    let expires = if spec.expires_at.is_some() { HAS_EXPIRY } else { 0 };
    out.push(expires | if apart { BODY_APART } else { 0 });
    out.extend(ms6(spec.expires_at.map_or(0, Timestamp::as_ms)));
    out.extend_from_slice(queue.as_bytes());
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(key.as_bytes());
    if apart {
        return PackedJob { record: out, body: Some([payload.as_ref(), &options].concat()) };
    }
    out.extend_from_slice(payload);
    out.extend_from_slice(&options);
    PackedJob { record: out, body: None }
}

/// A job's record, decoded.
#[derive(Debug, PartialEq)]
pub(crate) struct StoredJob {
    pub(crate) spec: JobSpec,
    pub(crate) enqueued_at: Timestamp,
    pub(crate) due_at: Timestamp,
}

/// The parts of a record whose lengths it states itself.
struct Layout {
    queue: Range<usize>,
    kind: Range<usize>,
    key: Range<usize>,
    payload_bytes: usize,
}

impl Layout {
    fn of(bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.get(..FIXED_BYTES)?;
        let payload_bytes = usize::try_from(unsigned(&fixed[13..17])).ok()?;
        let key_bytes = usize::from(fixed[17]) << 8 | usize::from(fixed[18]);
        let queue = FIXED_BYTES..FIXED_BYTES + usize::from(fixed[20]);
        let kind = queue.end..queue.end + usize::from(fixed[21]);
        let key = kind.end..kind.end + key_bytes;
        (key.end <= bytes.len()).then_some(Self { queue, kind, key, payload_bytes })
    }
}

fn text(bytes: &[u8], range: Range<usize>) -> Result<&str, String> {
    std::str::from_utf8(&bytes[range]).map_err(|_| "a name is not text".to_owned())
}

/// Decodes a job's record, and its body if that is apart (else empty). The payload shares the
/// memory of what it is in.
///
/// # Errors
/// What is wrong with the bytes, without the bytes.
pub(crate) fn unpack_job(id: JobId, bytes: Vec<u8>, body: Vec<u8>) -> Result<StoredJob, String> {
    let bytes = Bytes::from(bytes);
    match bytes.first() {
        Some(&VERSION) => {}
        Some(version) => return Err(format!("its record has the unknown version {version}")),
        None => return Err("its record is empty".to_owned()),
    }
    let layout = Layout::of(&bytes).ok_or("its record is cut short")?;
    let codec = Codec::from_number(bytes[19]).ok_or("its codec is unknown")?;
    let queue = QueueName::new(text(&bytes, layout.queue)?).map_err(|e| e.to_string())?;
    let kind = Kind::new(text(&bytes, layout.kind)?).map_err(|e| e.to_string())?;
    let key = text(&bytes, layout.key.clone())?;
    let body = match bytes[FLAGS_AT] & BODY_APART {
        0 => bytes.slice(layout.key.end..),
        _ => Bytes::from(body),
    };
    let options = body.get(layout.payload_bytes..).ok_or("its payload is cut short or missing")?;
    let options = JobOptions::decode(options)?;
    let payload = Payload::from_parts(codec, body.slice(..layout.payload_bytes));
    let ms = |from: usize| Timestamp::from_ms(unsigned(&bytes[from..from + 6]));
    let kept = |from: usize| Duration::from_secs(unsigned(&bytes[from..from + 4]));
    let mut spec = JobSpec::new(id, queue, kind, payload);
    spec.priority = Priority::new(bytes[22]).ok_or("its priority is out of range")?;
    spec.max_attempts = u16::from(bytes[23]) << 8 | u16::from(bytes[24]);
    spec.max_stalls = bytes[25];
    spec.retention = Retention { completed: kept(26), dead: kept(30) };
    spec.expires_at = (bytes[FLAGS_AT] & HAS_EXPIRY != 0).then(|| ms(35));
    spec.idempotency_key = match key {
        "" => None,
        key => Some(IdempotencyKey::new(key).map_err(|e| e.to_string())?),
    };
    spec.options = options;
    debug_assert!(bytes.len() >= TIMES_BYTES);
    Ok(StoredJob { spec, enqueued_at: ms(1), due_at: ms(7) })
}

/// What indexes need to know of a job: its record without payload and options.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) pair: String,
    pub(crate) lane: String,
    pub(crate) queue: String,
    pub(crate) key: Vec<u8>,
    pub(crate) completed_ms: u64,
    pub(crate) dead_ms: u64,
    /// Whether payload and options are elsewhere.
    pub(crate) body_apart: bool,
}

/// Decodes a record's head; the payload may be missing.
pub(crate) fn unpack_head(bytes: &[u8]) -> Option<Head> {
    let fixed = bytes.get(..FIXED_BYTES).filter(|fixed| fixed[0] == VERSION)?;
    let key_bytes = usize::from(fixed[17]) << 8 | usize::from(fixed[18]);
    let names = bytes.get(FIXED_BYTES..)?;
    let (queue, names) = names.split_at_checked(usize::from(fixed[20]))?;
    let (kind, names) = names.split_at_checked(usize::from(fixed[21]))?;
    let queue = std::str::from_utf8(queue).ok()?.to_owned();
    let pair = format!("{queue}/{}", std::str::from_utf8(kind).ok()?);
    Some(Head {
        lane: format!("{pair}/{}", fixed[22]),
        pair,
        queue,
        key: names.get(..key_bytes)?.to_vec(),
        completed_ms: unsigned(&fixed[26..30]) * 1000,
        dead_ms: unsigned(&fixed[30..34]) * 1000,
        body_apart: fixed[FLAGS_AT] & BODY_APART != 0,
    })
}

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
    let fixed = bytes.get(..29)?;
    Some(Attempts {
        failures: u16::try_from(unsigned(&fixed[..2])).ok()?,
        stalls: fixed[2],
        snoozes: u32::try_from(unsigned(&fixed[3..7])).ok()?,
        due_at: Timestamp::from_ms(unsigned(&fixed[7..13])),
        last_error: JobError::decode(&bytes[29..]).ok(),
    })
}

/// Fills in how a job ended from `fin`, and from its result if that is apart (else empty); leaves
/// the record alone if that cannot be read.
pub(crate) fn unpack_end(record: &mut JobRecord, bytes: &[u8], result: &[u8]) {
    let Some(fixed) = bytes.get(..30) else { return };
    record.dead_reason = match fixed[1] & !RESULT_APART {
        1 => Some(DeadReason::AttemptsExhausted),
        2 => Some(DeadReason::Failed),
        3 => Some(DeadReason::CrashLoop),
        4 => Some(DeadReason::Expired),
        _ => None,
    };
    record.finished_at = Some(Timestamp::from_ms(unsigned(&fixed[2..8])));
    let elapsed_ms = unsigned(&fixed[8..14]);
    // The largest number stands for "no worker finished it".
    record.elapsed =
        (elapsed_ms != Timestamp::MAX.as_ms()).then(|| Duration::from_millis(elapsed_ms));
    let apart = fixed[1] & RESULT_APART != 0;
    record.result = unpack_result(if apart { result } else { &bytes[30..] });
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

/// The state of its number in replies.
pub(crate) fn state_of(number: u8) -> Option<JobState> {
    JobState::ALL.get(usize::from(number)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use queue_core::NewJob;

    fn with_times(body: &[u8]) -> Vec<u8> {
        [&[VERSION][..], &ms6(7), &ms6(9), body].concat()
    }

    fn job() -> JobSpec {
        NewJob::new(Kind::new("email.send").unwrap(), Payload::raw(&b"\0\xff!"[..]))
            .queue("bulk")
            .priority(2)
            .max_attempts(300)
            .max_stalls(4)
            .idempotency_key("key")
            .expires_at(std::time::UNIX_EPOCH + Duration::from_millis(0x0102_0304_0506))
            .retention(Retention {
                completed: Duration::from_secs(5),
                dead: Duration::from_secs(0x0a0b_0c0d),
            })
            .schema_version(3)
            .spec
    }

    /// Stored records outlive a version of this program: these bytes must not change.
    #[test]
    fn a_job_has_these_bytes() {
        let expected: &[&[u8]] = &[
            &[0, 0, 0, 3, 0, 3, 0, 4, 10, 2, 1, 44, 4],
            &[0, 0, 0, 5, 10, 11, 12, 13, 1, 1, 2, 3, 4, 5, 6],
            b"bulkemail.sendkey\0\xff!",
            b"\x81\xaeschema_version\x03",
        ];
        let packed = pack_job(&job());
        assert_eq!((packed.record, packed.body), (expected.concat(), None));
    }

    #[test]
    fn a_large_job_has_its_body_apart_and_only_that() {
        let options = job().options.encode();
        let filling = |bytes: usize| {
            let mut spec = job();
            spec.payload = Payload::raw(vec![7; bytes - options.len()]);
            spec
        };
        let (small, large) = (filling(INLINE_MAX_BYTES), filling(INLINE_MAX_BYTES + 1));
        let inline = pack_job(&small);
        assert_eq!(inline.body, None);
        let apart = pack_job(&large);
        assert_eq!(apart.bytes(), inline.bytes() + 1);
        let body = apart.body.unwrap();
        assert_eq!(body, [large.payload.bytes().as_ref(), options.as_slice()].concat());
        let mut head = inline.record[..inline.record.len() - INLINE_MAX_BYTES].to_vec();
        head[3] += 1; // the payload's length
        head[FLAGS_AT - TIMES_BYTES] |= BODY_APART;
        assert_eq!(apart.record, head);

        let stored = unpack_job(large.id, with_times(&head), body.clone()).unwrap();
        assert_eq!(stored.spec, large);
        for kept in [0, large.payload.bytes().len() - 1] {
            let lost = unpack_job(large.id, with_times(&head), body[..kept].to_vec()).unwrap_err();
            assert!(lost.contains("payload"), "{lost}");
        }
    }

    #[test]
    fn a_job_survives_its_record() {
        let id = JobId::new();
        let mut expected = job();
        expected.id = id;
        let stored = unpack_job(id, with_times(&pack_job(&expected).record), Vec::new()).unwrap();
        assert_eq!(stored.spec, expected);
        assert_eq!((stored.enqueued_at.as_ms(), stored.due_at.as_ms()), (7, 9));
    }

    #[test]
    fn damaged_records_are_errors_and_never_panics() {
        let whole = with_times(&pack_job(&job()).record);
        let unpack = |bytes| unpack_job(JobId::new(), bytes, Vec::new());
        for end in 0..whole.len() {
            assert!(unpack(whole[..end].to_vec()).is_err(), "cut at {end}");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0xff;
            let _ = unpack(flipped);
        }
        let mut newer = whole;
        newer[0] = VERSION + 1;
        let error = unpack(newer).unwrap_err();
        assert!(error.contains("unknown version 2"), "{error}");
    }

    #[test]
    fn attempts_and_ends_are_read_as_the_scripts_write_them() {
        let att = [&[0, 2, 1, 0, 0, 0, 3][..], &ms6(99), &[7; 16]].concat();
        let attempts = unpack_attempts(&att).unwrap();
        assert_eq!((attempts.failures, attempts.stalls, attempts.snoozes), (2, 1, 3));
        assert_eq!((attempts.due_at.as_ms(), attempts.last_error), (99, None));
        assert!(unpack_attempts(&att[..28]).is_none());

        let mut record = JobRecord::new(job(), JobState::Completed, Timestamp::from_ms(1));
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
