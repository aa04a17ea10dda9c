//! T5 to T10 and T14: renewals and the ends of attempts.

use queue_core::{
    ClaimToken, Ending, Error, HISTORY_ERROR_MAX_BYTES, JobId, JobState, Lease, Outcome,
    RenewRequest, Renewal, SettleReply, SettleRequest, Settled, Settlement,
};
use redis::Value;

use super::{RedisBackend, claim, quarantine};
use crate::keys::Keys;
use crate::record::{joined, millis, ms6, pack_result, state_of};
use crate::reply::{self, unexpected};
use crate::scripts;
use crate::store::{self, Call, Repeat};

pub(super) async fn run(
    backend: &RedisBackend,
    request: &SettleRequest,
) -> Result<SettleReply, Error> {
    let mut calls = Vec::with_capacity(2);
    if !request.settlements.is_empty() {
        calls.push(call(&backend.keys, &request.settlements)?);
    }
    calls.extend(request.claim.as_ref().map(|claim| claim::call(backend, claim)));
    if calls.is_empty() {
        return Ok(SettleReply::new(Vec::new(), None));
    }
    let asked = claim::Asked::now(backend);
    let (mut values, error) = store::each(&backend.link, &calls, Repeat::Freely).await;
    if let Some(error) = error {
        // The settlements were refused and the claim behind them was not: its jobs have nobody.
        if let (Some(claim), Some(Some(reply))) = (&request.claim, values.pop())
            && let Ok(claim) = claim::answer(backend, claim, reply, asked).await
        {
            let job = |lease: &Lease| (lease.spec.id, lease.token);
            let jobs: Vec<_> = claim.leases.iter().map(job).collect();
            claim::give_back(&backend.link, &backend.keys, &jobs).await;
        }
        return Err(error);
    }
    let mut replies = values.into_iter().flatten();
    let mut next = || replies.next().ok_or_else(|| unexpected("too short"));
    let settled = match request.settlements.as_slice() {
        [] => Vec::new(),
        settlements => {
            let letters = reply::bytes(next()?)?;
            quarantine::log(backend, &newly_quarantined(settlements, &letters)).await;
            read(settlements, &letters)?
        }
    };
    let claim = match &request.claim {
        Some(claim) => Some(claim::answer(backend, claim, next()?, asked).await?),
        None => None,
    };
    Ok(SettleReply::new(settled, claim))
}

pub(super) fn call(keys: &Keys, settlements: &[Settlement]) -> Result<Call, Error> {
    let count = settlements.len();
    let mut cmd = scripts::settle.call(keys, count * 2, count * 96);
    for settlement in settlements {
        cmd.arg(settlement.id.as_bytes().as_slice());
    }
    for Settlement { token, outcome, elapsed, .. } in settlements {
        let (letter, delay_ms, blob) = match outcome {
            Outcome::Completed { result } => (b'C', 0, pack_result(result.as_ref())),
            Outcome::Retry { delay, error } => {
                let letter = match outcome.ending() {
                    Ending::Failed => b'F',
                    Ending::TimedOut => b'T',
                    _ => b'R',
                };
                (letter, millis(*delay), error.encode())
            }
            Outcome::Dead { error } => (b'D', 0, error.encode()),
            Outcome::Released => (b'L', 0, Vec::new()),
            Outcome::Snoozed { delay } => (b'Z', millis(*delay), Vec::new()),
            Outcome::Throttled { delay, limits } => {
                (b'K', millis(*delay), joined(limits).into_bytes())
            }
            Outcome::Cancelled => (b'X', 0, Vec::new()),
            other => return Err(Error::Unsupported(format!("the outcome {other:?}"))),
        };
        let short = shortened(outcome).unwrap_or_default();
        let head = head(letter, delay_ms, short.len(), millis(*elapsed), token);
        cmd.arg([head.as_slice(), &short, &blob].concat());
    }
    Ok(Call::script(&scripts::settle, cmd))
}

/// The error as the history keeps it, if that is not the whole error.
fn shortened(outcome: &Outcome) -> Option<Vec<u8>> {
    let (Outcome::Retry { error, .. } | Outcome::Dead { error }) = outcome else { return None };
    let is_long = error.message.len() > HISTORY_ERROR_MAX_BYTES;
    is_long.then(|| error.shortened(HISTORY_ERROR_MAX_BYTES).encode())
}

/// The fixed part of a settlement; the script keeps its tail as it is.
fn head(
    letter: u8,
    delay_ms: u64,
    short_bytes: usize,
    elapsed_ms: u64,
    token: &ClaimToken,
) -> [u8; 31] {
    let mut head = [0; 31];
    head[0] = letter;
    head[1..7].copy_from_slice(&ms6(delay_ms));
    let short_bytes = u16::try_from(short_bytes).unwrap_or(0); // at most HISTORY_ERROR_MAX_BYTES
    head[7..9].copy_from_slice(&short_bytes.to_be_bytes());
    // The largest number stands for "no worker finished it".
    head[9..15].copy_from_slice(&ms6(elapsed_ms.min(queue_core::Timestamp::MAX.as_ms() - 1)));
    head[15..].copy_from_slice(token.as_bytes().as_slice());
    head
}

/// The jobs of which a settlement found that their records cannot be read.
fn newly_quarantined(settlements: &[Settlement], letters: &[u8]) -> Vec<JobId> {
    let pairs = settlements.iter().zip(letters.chunks(2));
    pairs.filter(|(_, pair)| pair[0] == b'q').map(|(settlement, _)| settlement.id).collect()
}

fn read(settlements: &[Settlement], letters: &[u8]) -> Result<Vec<Settled>, Error> {
    if letters.len() != settlements.len() * 2 {
        return Err(unexpected("not one answer per settlement"));
    }
    letters.chunks(2).map(|pair| settled(pair[0], pair[1])).collect()
}

fn settled(letter: u8, state: u8) -> Result<Settled, Error> {
    let state: JobState =
        state_of(state.wrapping_sub(b'0')).ok_or_else(|| unexpected("an unknown state"))?;
    match letter {
        b'a' => Ok(Settled::Applied(state)),
        b'd' => Ok(Settled::AlreadyDone(state)),
        b's' | b'q' => Ok(Settled::Stale(state)),
        b'g' => Ok(Settled::Gone),
        _ => Err(unexpected("an unknown letter")),
    }
}

pub(super) async fn renew(
    backend: &RedisBackend,
    request: &RenewRequest,
) -> Result<Vec<Renewal>, Error> {
    if request.tokens.is_empty() {
        return Ok(Vec::new());
    }
    let count = request.tokens.len();
    let mut cmd = scripts::renew.call(&backend.keys, count + 1, count * 24);
    cmd.arg(millis(request.lease));
    for token in &request.tokens {
        cmd.arg(token.as_bytes().as_slice());
    }
    let call = Call::script(&scripts::renew, cmd);
    let replies = reply::array(store::one(&backend.link, call, Repeat::Freely).await?)?;
    replies
        .into_iter()
        .map(|reply| match reply {
            Value::Nil => Ok(Renewal::Lost),
            held => Ok(Renewal::Held { cancel_requested: reply::ids(&reply::bytes(held)?)? }),
        })
        .collect()
}
