//! T4: the request and its answer.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use queue_core::backend::Epoch;
use queue_core::{
    Claim, ClaimRequest, ClaimToken, Error, Interest, JobId, Kind, Lease, Outcome, QueueName,
    Settlement, Timestamp, Wake, Woken,
};
use redis::{Cmd, Value};
use tokio::sync::oneshot;

use super::quarantine::Unreadable;
use super::{RedisBackend, quarantine, settle};
use crate::connect::Link;
use crate::keys::Keys;
use crate::record::{Attempts, joined, millis, unpack_attempts, unpack_next_job};
use crate::reply::{self, Items};
use crate::scripts::{self, Source};
use crate::store::{self, Call, Repeat};

/// How far the server's clock may be ahead of what is known of it.
const CLOCK_ERROR: Duration = Duration::from_millis(10);

/// A worker that asks now and then knows the server's clock by then, if its answers come fast enough.
const CLOCK_SOON: Duration = Duration::from_secs(2);

pub(super) async fn run(backend: &RedisBackend, request: &ClaimRequest) -> Result<Claim, Error> {
    let asked = Asked::now(backend);
    let reply = store::one(&backend.link, call(backend, request), Repeat::Freely).await?;
    answer(backend, request, reply, asked).await
}

pub(super) fn call(backend: &RedisBackend, request: &ClaimRequest) -> Call {
    let epoch = backend.epoch.current();
    Call::script(&scripts::claim, cmd(&scripts::claim, &backend.keys, request, &epoch))
}

/// The call of a script that takes what a claim does.
pub(crate) fn cmd(script: &Source, keys: &Keys, request: &ClaimRequest, epoch: &Epoch) -> Cmd {
    let arguments = 7 + request.queues.len() + 3 * request.kinds.len();
    let mut cmd = script.call(keys, arguments, arguments * 32);
    cmd.arg(request.token.as_bytes().as_slice()).arg(request.worker.as_str());
    cmd.arg(request.max).arg(millis(request.lease)).arg(request.round_jobs);
    cmd.arg(request.queues.len());
    for queue in &request.queues {
        cmd.arg(queue.as_str());
    }
    for kind in &request.kinds {
        cmd.arg(kind.kind.as_str()).arg(kind.slots).arg(joined(&kind.limits));
    }
    cmd.arg(epoch.as_bytes());
    cmd
}

/// When a claim was sent, and what the server's clock was then, as far as was known.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    at: Instant,
    server_ms: u64,
}

impl Asked {
    pub(super) fn now(backend: &RedisBackend) -> Self {
        Self { at: Instant::now(), server_ms: backend.clock.now_ms() }
    }
}

/// Reads the answer to a claim.
pub(super) async fn answer(
    backend: &RedisBackend,
    request: &ClaimRequest,
    reply: Value,
    asked: Asked,
) -> Result<Claim, Error> {
    let answer = read(request, reply)?;
    backend.clock.note(answer.now_ms, asked.server_ms, asked.at);
    Ok(accept(backend, request, answer).await)
}

/// Waits for work with a standing claim. Only while the server's clock is known: it tells how old an
/// answer is that has come late.
pub(super) async fn wait(
    backend: &RedisBackend,
    interest: &Interest,
    request: &ClaimRequest,
    revoked: oneshot::Receiver<()>,
    timeout: Duration,
) -> Result<Woken, Error> {
    if backend.clock.now_ms() == 0 {
        let timeout = timeout.min(CLOCK_SOON);
        let wake = tokio::select! {
            wake = backend.waiters.wait(interest, timeout) => wake,
            _ = revoked => Wake::Timeout,
        };
        return Ok(Woken::without_claim(wake));
    }
    let (wake, brought) =
        backend.waiters.wait_and_claim(interest, request, revoked, timeout).await?;
    let Some(mut brought) = brought else { return Ok(Woken::without_claim(wake)) };
    let answer = brought.open()?;
    let read_at = Instant::now();
    let ago = match backend.clock.now_ms() {
        0 => brought.sent_at.elapsed(),
        now_ms => Duration::from_millis(now_ms.saturating_sub(answer.now_ms)) + CLOCK_ERROR,
    };
    let ago = ago + brought.sent_at.slept();
    let claim = accept(backend, request, answer).await;
    brought.accept();
    Ok(Woken::with_claim(wake, claim, ago + read_at.elapsed()))
}

/// Gives claimed jobs back that nobody will run. If that fails, too, their lease ends.
pub(crate) async fn give_back(link: &Link, keys: &Keys, jobs: &[(JobId, ClaimToken)]) {
    let released = |(id, token): &(JobId, ClaimToken)| Settlement {
        id: *id,
        token: *token,
        outcome: Outcome::Released,
        elapsed: Duration::ZERO,
    };
    // From the last to the first, each to the head: the lanes end up in order.
    let settlements: Vec<Settlement> = jobs.iter().rev().map(released).collect();
    if settlements.is_empty() {
        return;
    }
    let Ok(call) = settle::call(keys, &settlements) else { return };
    if let Err(error) = store::one(link, call, Repeat::Freely).await {
        tracing::warn!(
            event = "claim_not_undone",
            %error,
            "claimed jobs that nobody runs wait for their lease to end"
        );
    }
}

/// Takes note of all that an answer says, and quarantines jobs that this program cannot decode: they
/// would stay leased and stall.
async fn accept(backend: &RedisBackend, request: &ClaimRequest, answer: Answer) -> Claim {
    let Answer { mut claim, other_epoch, quarantined, undecodable, shut, .. } = answer;
    backend.waiters.note_shut(request, shut);
    if let Some(epoch) = other_epoch {
        claim.was_reset = epoch != *backend.epoch.current();
        // It was adopted while the claim was out, which would have got jobs.
        claim.more = !claim.was_reset;
    }
    quarantine::log(backend, &quarantined).await;
    if !undecodable.is_empty() {
        // The others are leased and must reach their worker; these wait for their lease to end.
        if let Err(error) = quarantine::set_aside(backend, Some(request.token), &undecodable).await
        {
            tracing::warn!(
                event = "not_quarantined",
                %error,
                "jobs that cannot be decoded were not quarantined"
            );
        }
    }
    claim
}

/// What a claim was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) claim: Claim,
    /// The store's time of the answer.
    now_ms: u64,
    /// What the store's data is called, if it is not what the claim was to be made from.
    other_epoch: Option<Epoch>,
    /// Those that the script could not read.
    quarantined: Vec<JobId>,
    /// Those that this program cannot read.
    undecodable: Vec<Unreadable>,
    /// By `<queue>/<kind>` the key that the worker adds and that keeps its jobs from running.
    shut: Vec<(String, String)>,
}

pub(crate) fn read(request: &ClaimRequest, reply: Value) -> Result<Answer, Error> {
    let mut items = Items::of(reply)?;
    let now_ms = items.count()?;
    let claimed_at = Timestamp::from_ms(items.count()?);
    let first_fence = items.count()?;
    let mut claim = Claim::default();
    let flags = items.count()?;
    (claim.more, claim.spare) = (flags & 1 == 1, flags & 2 == 2);
    claim.next_due = items.number()?.map(Duration::from_millis);
    claim.maintain = items.flag()?;
    let epoch = Epoch::new(items.bytes()?);
    let other_epoch = (flags & 4 == 4).then_some(epoch);
    let quarantined = items.ids()?;
    let offsets = offsets(&items.bytes()?)?;
    let ids = items.ids()?;
    let atts = reply::list(items.value()?)?;
    let mut atts = atts.into_iter().map(reply::bytes);
    let mut bodies = bodies(items.value()?)?;
    let mut shut = reply::list(items.value()?)?.into_iter().map(reply::string);
    let shut = std::iter::from_fn(|| Some((shut.next()?, shut.next()?)));
    let shut = shut.map(|(pair, key)| Ok((pair?, key?))).collect::<Result<_, Error>>()?;
    claim.expired = expired(reply::list(items.value()?)?)?;
    let mut undecodable = Vec::new();
    claim.leases.reserve(ids.len());
    for (place, (id, record)) in (0..).zip(ids.into_iter().zip(items.rest())) {
        let att = atts.next().transpose()?.unwrap_or_default();
        let body = bodies.remove(&(place + 1)).unwrap_or_default();
        let last = claim.leases.last().map(|lease: &Lease| &lease.spec);
        match unpack_next_job(last, id, reply::bytes(record)?, body) {
            Ok(stored) => {
                let fence = first_fence + offsets.get(place).map_or(place as u64, |at| *at);
                let mut lease = Lease::new(stored.spec, request.token, fence, claimed_at);
                lease.enqueued_at = stored.enqueued_at;
                lease.due_at = stored.due_at;
                if let Some(Attempts { failures, stalls, due_at, .. }) = unpack_attempts(&att) {
                    (lease.failures, lease.stalls, lease.due_at) = (failures, stalls, due_at);
                }
                claim.leases.push(lease);
            }
            Err(reason) => undecodable.push(Unreadable { id, reason, record: Vec::new() }),
        }
    }
    Ok(Answer { claim, now_ms, other_epoch, quarantined, undecodable, shut })
}

/// Queue and kind, as in "default/mail", and how many, …
fn expired(items: Vec<Value>) -> Result<BTreeMap<(QueueName, Kind), u64>, Error> {
    let (mut items, mut expired) = (items.into_iter(), BTreeMap::new());
    while let (Some(pair), Some(Value::Int(jobs))) = (items.next(), items.next()) {
        let pair = reply::string(pair)?;
        let (queue, kind) = pair.split_once('/').unwrap_or_default();
        if let (Ok(queue), Ok(kind), Ok(jobs)) =
            (QueueName::new(queue), Kind::new(kind), u64::try_from(jobs))
        {
            expired.insert((queue, kind), jobs);
        }
    }
    Ok(expired)
}

/// The bodies that are apart, by the number of their job from 1.
fn bodies(value: Value) -> Result<HashMap<usize, Vec<u8>>, Error> {
    let mut items = reply::list(value)?.into_iter();
    let mut bodies = HashMap::new();
    while let (Some(number), Some(body)) = (items.next(), items.next()) {
        let Value::Int(number) = number else { return Err(reply::unexpected("not a number")) };
        bodies.insert(usize::try_from(number).unwrap_or(0), reply::bytes(body)?);
    }
    Ok(bodies)
}

/// The places of a repeated claim's jobs in it, as decimal numbers with commas.
fn offsets(bytes: &[u8]) -> Result<Vec<u64>, Error> {
    let text = String::from_utf8_lossy(bytes);
    let numbers = text.split(',').filter(|number| !number.is_empty());
    numbers.map(|number| number.parse().map_err(|_| reply::unexpected("not an offset"))).collect()
}
