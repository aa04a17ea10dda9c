//! The packed records that scripts and this program both read: here a job (`jobs`, `body`), whose
//! head is laid out in `lua/lib/class.lua`; brief ones in `lua/lib/brief.lua`.

mod attempts;
mod limits;
#[cfg(test)]
mod tests;
mod traces;

pub(crate) use attempts::{
    Attempts, BRIEF_END, BRIEF_END_BYTES, END_BYTES, RESULT_APART, dead_reason, finished_at,
    pack_result, unpack_attempts, unpack_end,
};
pub(crate) use limits::{pack_settings, unpack_settings, unpack_state};
pub(crate) use traces::{unpack_history, unpack_log};

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use queue_core::{
    Codec, Hold, IdempotencyKey, JobId, JobOptions, JobSpec, JobState, JobSummary, Kind, LimitKey,
    LimitKeys, Payload, Priority, QueueName, Retention, Timestamp,
};

/// The whole layouts of records: of jobs that expire, and of those that do not. The next number after
/// each is that of jobs with limit keys. A record of another version cannot be decoded.
pub(crate) const EXPIRING: u8 = 1;
pub(crate) const LASTING: u8 = 3;
/// Those of the brief layout (`lua/lib/brief.lua`), which most jobs have.
pub(crate) const BRIEF: u8 = 5;
const LAST_VERSION: u8 = BRIEF + 1;
/// Everything before the queue's name, and before the time at which the job expires.
const FIXED_BYTES: usize = 35;
/// Everything before the queue's name in a brief record.
const BRIEF_FIXED_BYTES: usize = 12;
/// Its record is kept as long as usual when it has completed; the rest of the byte are 3 bits of the
/// codec and 4 of the priority.
const BRIEF_IS_KEPT: u8 = 128;
/// The settings of jobs with brief records, but for those whose record goes when they have completed.
const USUAL_QUEUE: &str = "default";
const USUAL_ATTEMPTS: u16 = 10;
const USUAL_STALLS: u8 = 3;
const USUAL_RETENTION: Retention = Retention {
    completed: Duration::from_secs(24 * 3600),
    dead: Duration::from_secs(14 * 24 * 3600),
};
const EXPIRY_BYTES: usize = 6;
/// Where the flags are.
const FLAGS_AT: usize = 34;
const HAS_EXPIRY: u8 = 1;
const BODY_APART: u8 = 2;
const HOLD_LIVE: u8 = 4;
const HOLD_AT_LEAST: u8 = 8;
const HAS_LIMITS: u8 = 16;
/// The time of [`Hold::AtLeast`], behind the key.
const HOLD_BYTES: usize = 6;
/// Payload and options, or a result, of more bytes than this live in a hash of their own: no pass
/// of a script over many records has to read them.
pub(crate) const INLINE_MAX_BYTES: usize = 1024;

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
    pub(crate) record: Vec<u8>,
    /// Payload and options, if they are too large for the record.
    pub(crate) body: Option<Vec<u8>>,
}

impl PackedJob {
    pub(crate) fn bytes(&self) -> usize {
        self.record.len() + self.body.as_ref().map_or(0, Vec::len)
    }
}

/// Whether the record of a job is kept when it has completed, as a brief record says it; `None` if the job
/// cannot have a brief record.
fn brief_retention(spec: &JobSpec) -> Option<u8> {
    let is_brief = spec.expires_at.is_none()
        && spec.idempotency_key.is_none()
        && spec.hold == Hold::Kept
        && (spec.max_attempts, spec.max_stalls) == (USUAL_ATTEMPTS, USUAL_STALLS)
        && seconds(spec.retention.dead) == seconds(USUAL_RETENTION.dead)
        && spec.options == JobOptions::default()
        && spec.payload.codec().number() < 8
        && spec.payload.bytes().len() < INLINE_MAX_BYTES;
    let usual = seconds(USUAL_RETENTION.completed);
    match seconds(spec.retention.completed) {
        0 if is_brief => Some(0),
        kept if is_brief && kept == usual => Some(BRIEF_IS_KEPT),
        _ => None,
    }
}

fn pack_brief(spec: &JobSpec, retention: u8, now_ms: u64) -> PackedJob {
    let (queue, kind) = (spec.queue.as_str(), spec.kind.as_str());
    let queue = if queue == USUAL_QUEUE { "" } else { queue };
    let payload = spec.payload.bytes();
    let bytes = BRIEF_FIXED_BYTES + queue.len() + kind.len() + payload.len();
    let mut out = Vec::with_capacity(bytes);
    out.push(BRIEF + u8::from(!spec.limits.is_empty()));
    out.extend(ms6(now_ms));
    out.extend(length::<u16>(payload.len()).to_be_bytes());
    out.push(retention | spec.payload.codec().number() << 4 | spec.priority.level());
    out.push(length(queue.len()));
    out.push(length(kind.len()));
    out.extend_from_slice(queue.as_bytes());
    out.extend_from_slice(kind.as_bytes());
    put_limits(spec, &mut out);
    out.extend_from_slice(payload);
    PackedJob { record: out, body: None }
}

fn put_limits(spec: &JobSpec, out: &mut Vec<u8>) {
    if !spec.limits.is_empty() {
        let limits = joined(&spec.limits);
        out.extend(length::<u16>(limits.len()).to_be_bytes());
        out.extend_from_slice(limits.as_bytes());
    }
}

/// Puts a job into its stored form, enqueued and due at a time that the script may change; a brief one
/// if the job `is_due` when it comes, and may have it.
pub(crate) fn pack_job(spec: &JobSpec, is_due: bool, now_ms: u64) -> PackedJob {
    if let Some(retention) = brief_retention(spec).filter(|_| is_due) {
        return pack_brief(spec, retention, now_ms);
    }
    let (queue, kind) = (spec.queue.as_str(), spec.kind.as_str());
    let key = spec.idempotency_key.as_ref().map_or("", IdempotencyKey::as_str);
    let payload = spec.payload.bytes();
    let options = spec.options.encode();
    let body_bytes = payload.len() + options.len();
    let apart = body_bytes > INLINE_MAX_BYTES;
    let inline_bytes = if apart { 0 } else { body_bytes };
    let names = queue.len() + kind.len() + key.len();
    let mut out = Vec::with_capacity(FIXED_BYTES + EXPIRY_BYTES + names + inline_bytes);
    let version = if spec.expires_at.is_some() { EXPIRING } else { LASTING };
    out.push(version + u8::from(!spec.limits.is_empty()));
    out.extend([ms6(now_ms), ms6(now_ms)].as_flattened());
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
    out.push(flags(spec, apart));
    if let Some(expires_at) = spec.expires_at {
        out.extend(ms6(expires_at.as_ms()));
    }
    out.extend_from_slice(queue.as_bytes());
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(key.as_bytes());
    if let Hold::AtLeast(time) = spec.hold {
        out.extend(ms6(millis(time)));
    }
    put_limits(spec, &mut out);
    if apart {
        return PackedJob { record: out, body: Some([payload.as_ref(), &options].concat()) };
    }
    out.extend_from_slice(payload);
    out.extend_from_slice(&options);
    PackedJob { record: out, body: None }
}

/// Limit keys as records, lanes and arguments have them.
pub(crate) fn joined(limits: &LimitKeys) -> String {
    limits.iter().map(LimitKey::as_str).collect::<Vec<_>>().join(",")
}

/// Reads [`joined`] keys back.
pub(crate) fn split(text: &str) -> Option<LimitKeys> {
    let limits = LimitKeys::parse(text.split(',')).ok()?;
    (joined(&limits) == text).then_some(limits)
}

fn flags(spec: &JobSpec, apart: bool) -> u8 {
    let expires = if spec.expires_at.is_some() { HAS_EXPIRY } else { 0 };
    let body = if apart { BODY_APART } else { 0 };
    let hold = match spec.hold {
        Hold::Kept => 0,
        Hold::Live => HOLD_LIVE,
        Hold::AtLeast(_) => HOLD_AT_LEAST,
    };
    let limits = if spec.limits.is_empty() { 0 } else { HAS_LIMITS };
    expires | body | hold | limits
}

/// A job's record, decoded.
#[derive(Debug, PartialEq)]
pub(crate) struct StoredJob {
    pub(crate) spec: JobSpec,
    pub(crate) enqueued_at: Timestamp,
    pub(crate) due_at: Timestamp,
}

/// What the head of a record says, and where the parts are whose lengths it states itself.
struct Layout {
    enqueued_at: Timestamp,
    due_at: Timestamp,
    codec: u8,
    priority: u8,
    max_attempts: u16,
    max_stalls: u8,
    retention: Retention,
    flags: u8,
    expires_at: Option<Timestamp>,
    queue: Range<usize>,
    kind: Range<usize>,
    key: Range<usize>,
    /// Empty for a job without limit keys.
    limits: Range<usize>,
    /// Where payload and options begin, if they are not apart.
    end: usize,
    payload_bytes: usize,
    /// Whether the options are the usual ones, and left out.
    is_brief: bool,
}

impl Layout {
    fn of(bytes: &[u8]) -> Result<Self, String> {
        let layout = match bytes.first() {
            Some(&(EXPIRING..BRIEF)) => Self::of_whole(bytes),
            Some(&(BRIEF..=LAST_VERSION)) => Self::of_brief(bytes),
            Some(version) => return Err(format!("its record has the unknown version {version}")),
            None => return Err("its record is empty".to_owned()),
        };
        layout.ok_or_else(|| "its record is cut short".to_owned())
    }

    fn of_whole(bytes: &[u8]) -> Option<Self> {
        let fixed: &[u8; FIXED_BYTES] = bytes.first_chunk()?;
        let flags = fixed[FLAGS_AT];
        let payload_bytes = usize::try_from(unsigned(&fixed[13..17])).ok()?;
        let key_bytes = usize::from(fixed[17]) << 8 | usize::from(fixed[18]);
        let names_at = if fixed[0] < LASTING { FIXED_BYTES + EXPIRY_BYTES } else { FIXED_BYTES };
        let expiry = bytes.get(FIXED_BYTES..names_at)?;
        let queue = names_at..names_at + usize::from(fixed[20]);
        let kind = queue.end..queue.end + usize::from(fixed[21]);
        let key = kind.end..kind.end + key_bytes;
        let hold_bytes = if flags & HOLD_AT_LEAST == 0 { 0 } else { HOLD_BYTES };
        let limits = limits_at(bytes, key.end + hold_bytes)?;
        let end = limits.end;
        let is_legal = end <= bytes.len()
            && (flags & HAS_LIMITS != 0) == is_limited(fixed[0])
            && (fixed[0] < LASTING || flags & HAS_EXPIRY == 0);
        let kept = |bytes: &[u8]| Duration::from_secs(unsigned(bytes));
        is_legal.then(|| Self {
            enqueued_at: time(&fixed[1..7]),
            due_at: time(&fixed[7..13]),
            codec: fixed[19],
            priority: fixed[22],
            max_attempts: u16::from(fixed[23]) << 8 | u16::from(fixed[24]),
            max_stalls: fixed[25],
            retention: Retention { completed: kept(&fixed[26..30]), dead: kept(&fixed[30..34]) },
            flags,
            expires_at: (flags & HAS_EXPIRY != 0).then(|| time(expiry)),
            queue,
            kind,
            key,
            limits,
            end,
            payload_bytes,
            is_brief: false,
        })
    }

    fn of_brief(bytes: &[u8]) -> Option<Self> {
        let fixed: &[u8; BRIEF_FIXED_BYTES] = bytes.first_chunk()?;
        let queue = BRIEF_FIXED_BYTES..BRIEF_FIXED_BYTES + usize::from(fixed[10]);
        let kind = queue.end..queue.end + usize::from(fixed[11]);
        let limits = limits_at(bytes, kind.end)?;
        let end = limits.end;
        let payload_bytes = usize::try_from(unsigned(&fixed[7..9])).ok()?;
        let is_kept = fixed[9] & BRIEF_IS_KEPT != 0;
        let completed = if is_kept { USUAL_RETENTION.completed } else { Duration::ZERO };
        (end <= bytes.len()).then(|| Self {
            enqueued_at: time(&fixed[1..7]),
            due_at: time(&fixed[1..7]),
            codec: (fixed[9] & !BRIEF_IS_KEPT) >> 4,
            priority: fixed[9] & 0b1111,
            max_attempts: USUAL_ATTEMPTS,
            max_stalls: USUAL_STALLS,
            retention: Retention { completed, ..USUAL_RETENTION },
            flags: if is_limited(fixed[0]) { HAS_LIMITS } else { 0 },
            expires_at: None,
            key: kind.end..kind.end,
            queue,
            kind,
            limits,
            end,
            payload_bytes,
            is_brief: true,
        })
    }

    fn queue_bytes<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match &bytes[self.queue.clone()] {
            [] if self.is_brief => USUAL_QUEUE.as_bytes(),
            queue => queue,
        }
    }

    fn queue(&self, bytes: &[u8]) -> Result<QueueName, String> {
        QueueName::new(text(self.queue_bytes(bytes))?).map_err(|e| e.to_string())
    }

    fn kind(&self, bytes: &[u8]) -> Result<Kind, String> {
        Kind::new(text(&bytes[self.kind.clone()])?).map_err(|e| e.to_string())
    }

    fn hold(&self, bytes: &[u8]) -> Hold {
        match self.flags & (HOLD_LIVE | HOLD_AT_LEAST) {
            0 => Hold::Kept,
            HOLD_LIVE => Hold::Live,
            _ => {
                let time = &bytes[self.key.end..self.key.end + HOLD_BYTES];
                Hold::AtLeast(Duration::from_millis(unsigned(time)))
            }
        }
    }

    fn priority(&self) -> Result<Priority, String> {
        Priority::new(self.priority).ok_or_else(|| "its priority is out of range".to_owned())
    }

    fn limits(&self, bytes: &[u8]) -> Result<LimitKeys, String> {
        if self.flags & HAS_LIMITS == 0 {
            return Ok(LimitKeys::NONE);
        }
        split(text(&bytes[self.limits.clone()])?)
            .ok_or_else(|| "its limit keys are not legal".to_owned())
    }
}

/// Whether a record of this version has limit keys.
fn is_limited(version: u8) -> bool {
    version.is_multiple_of(2)
}

/// Where the limit keys are of a record that has them from `from` on, behind their length.
fn limits_at(bytes: &[u8], from: usize) -> Option<Range<usize>> {
    if !is_limited(bytes[0]) {
        return Some(from..from);
    }
    let length = usize::try_from(unsigned(bytes.get(from..from + 2)?)).ok()?;
    Some(from + 2..from + 2 + length)
}

fn time(bytes: &[u8]) -> Timestamp {
    Timestamp::from_ms(unsigned(bytes))
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "a name is not text".to_owned())
}

/// Decodes a job's record, and its body if that is apart (else empty). The payload shares the
/// memory of what it is in.
///
/// # Errors
/// What is wrong with the bytes, without the bytes.
pub(crate) fn unpack_job(id: JobId, bytes: Vec<u8>, body: Vec<u8>) -> Result<StoredJob, String> {
    unpack_next_job(None, id, bytes, body)
}

/// As [`unpack_job`], of many: one that is alike shares the names of the one before it.
///
/// # Errors
/// As [`unpack_job`].
pub(crate) fn unpack_next_job(
    last: Option<&JobSpec>,
    id: JobId,
    bytes: Vec<u8>,
    body: Vec<u8>,
) -> Result<StoredJob, String> {
    let bytes = Bytes::from(bytes);
    let layout = Layout::of(&bytes)?;
    let codec = Codec::from_number(layout.codec).ok_or("its codec is unknown")?;
    let key = text(&bytes[layout.key.clone()])?;
    let body = match layout.flags & BODY_APART {
        0 => bytes.slice(layout.end..),
        _ => Bytes::from(body),
    };
    let options = body.get(layout.payload_bytes..).ok_or("its payload is cut short or missing")?;
    let options = match options {
        [] if layout.is_brief => JobOptions::default(),
        _ if layout.is_brief => return Err("its record goes on behind its payload".to_owned()),
        options => JobOptions::decode(options)?,
    };
    let payload = Payload::from_parts(codec, body.slice(..layout.payload_bytes));
    let is_alike = |last: &&JobSpec| {
        last.queue.as_str().as_bytes() == layout.queue_bytes(&bytes)
            && last.kind.as_str().as_bytes() == &bytes[layout.kind.clone()]
    };
    let (queue, kind) = match last.filter(is_alike) {
        Some(last) => (last.queue.clone(), last.kind.clone()),
        None => (layout.queue(&bytes)?, layout.kind(&bytes)?),
    };
    let mut spec = JobSpec::new(id, queue, kind, payload);
    spec.priority = layout.priority()?;
    spec.max_attempts = layout.max_attempts;
    spec.max_stalls = layout.max_stalls;
    spec.retention = layout.retention;
    spec.hold = layout.hold(&bytes);
    spec.limits = layout.limits(&bytes)?;
    spec.expires_at = layout.expires_at;
    spec.idempotency_key = match key {
        "" => None,
        key => Some(IdempotencyKey::new(key).map_err(|e| e.to_string())?),
    };
    spec.options = options;
    Ok(StoredJob { spec, enqueued_at: layout.enqueued_at, due_at: layout.due_at })
}

/// Decodes what a listing shows of a record's head.
///
/// # Errors
/// What is wrong with the bytes, without the bytes.
pub(crate) fn unpack_summary(
    id: JobId,
    state: JobState,
    bytes: &[u8],
) -> Result<JobSummary, String> {
    let layout = Layout::of(bytes)?;
    let (queue, kind) = (layout.queue(bytes)?, layout.kind(bytes)?);
    let mut summary = JobSummary::new(id, queue, kind, state, layout.enqueued_at);
    summary.priority = layout.priority()?;
    summary.due_at = layout.due_at;
    Ok(summary)
}

/// What indexes need to know of a job: its record without payload and options.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) pair: String,
    pub(crate) lane: String,
    pub(crate) queue: String,
    pub(crate) key: Vec<u8>,
    pub(crate) limits: LimitKeys,
    pub(crate) completed_ms: u64,
    pub(crate) dead_ms: u64,
    pub(crate) enqueued_ms: u64,
    pub(crate) due_ms: u64,
    pub(crate) hold: Hold,
    /// Whether payload and options are elsewhere.
    pub(crate) body_apart: bool,
}

impl Head {
    /// The end of the time for which the job holds its key at least; 0 if it has none.
    pub(crate) fn hold_end_ms(&self) -> u64 {
        match self.hold {
            Hold::AtLeast(time) => Timestamp::from_ms(self.enqueued_ms).after(time).as_ms(),
            _ => 0,
        }
    }
}

/// Decodes a record's head; the payload may be missing.
pub(crate) fn unpack_head(bytes: &[u8]) -> Option<Head> {
    let layout = Layout::of(bytes).ok()?;
    let (queue, kind) = (layout.queue(bytes).ok()?, layout.kind(bytes).ok()?);
    let pair = format!("{queue}/{kind}");
    let limits = layout.limits(bytes).ok()?;
    let index = match joined(&limits).as_str() {
        "" => layout.priority().ok()?.level().to_string(),
        keys => format!("{}/{keys}", layout.priority().ok()?.level()),
    };
    Some(Head {
        lane: format!("{pair}/{index}"),
        limits,
        pair,
        queue: queue.to_string(),
        key: bytes[layout.key.clone()].to_vec(),
        completed_ms: millis(layout.retention.completed),
        dead_ms: millis(layout.retention.dead),
        enqueued_ms: layout.enqueued_at.as_ms(),
        due_ms: layout.due_at.as_ms(),
        hold: layout.hold(bytes),
        body_apart: layout.flags & BODY_APART != 0,
    })
}

/// The state of its number in replies.
pub(crate) fn state_of(number: u8) -> Option<JobState> {
    JobState::ALL.get(usize::from(number)).copied()
}

/// The number of a state in replies and arguments.
pub(crate) fn number_of(state: JobState) -> u8 {
    let place = JobState::ALL.iter().position(|other| *other == state);
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
}
