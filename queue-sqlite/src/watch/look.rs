//! What there is in the file for those who wait.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use queue_core::{ClaimToken, Interest, JobId, Kind, LimitKey, QueueName, Timestamp, WorkerId};
use rusqlite::{Connection, OptionalExtension};

use super::Round;
use crate::backend::limits::clock;
use crate::backend::{HAS_PAUSE, SELECT_FIRST_DUE, SELECT_RUNNABLE};
use crate::errors::Fault;
use crate::rows::{limits_of, ms, names, number, sixteen, text};
use crate::session::Limits;

/// A due time and the job that has it.
pub(super) type FirstDue = (i64, [u8; 16]);
/// A job with a cancel request, and the claim that holds it.
pub(super) type Asked = (JobId, ClaimToken);
/// A queue and a kind.
pub(super) type Pair = (QueueName, Kind);

const DATA_VERSION: &str = "PRAGMA data_version";
/// Whether a queue that is not paused has ready jobs of a kind without limit keys.
pub(crate) const SELECT_HAS_READY: &str = "SELECT 1 FROM lane \
     WHERE queue = ?1 AND kind = ?2 AND limits = '' AND (ready > 0 \
     OR EXISTS (SELECT 1 FROM job WHERE job.lane = lane.lane AND job.position >= lane.head \
     AND job.state = 3)) \
     AND NOT EXISTS (SELECT 1 FROM pause WHERE pause.queue = ?1) LIMIT 1";
/// Whether lanes wait at a key that has room now.
pub(crate) const HAS_OPEN: &str =
    "SELECT 1 FROM limit_wait WHERE queue = ?1 AND kind = ?2 AND opens_ms <= ?3 LIMIT 1";
pub(crate) const SELECT_LANE_NAMES: &str =
    "SELECT queue, kind, priority, limits FROM lane WHERE lane = ?1";
/// Whether a cancel request is open; seldom.
pub(crate) const HAS_ASKED: &str = "SELECT 1 FROM job WHERE cancel_requested = 1 LIMIT 1";
/// The open cancel requests for jobs of a worker.
pub(crate) const SELECT_ASKED_OF_WORKER: &str = "SELECT job.id, claim.token FROM claim \
     CROSS JOIN job ON job.claim = claim.claim \
     WHERE claim.worker = ?1 AND job.cancel_requested = 1";

/// What was found.
#[derive(Debug)]
pub(super) struct Seen {
    /// Those for whom was looked, in the order in which they came.
    pub(super) waiters: Vec<(u64, Arc<Interest>, bool)>,
    /// Of the queues and kinds they want, those that have ready jobs.
    pub(super) ready: BTreeSet<Pair>,
    /// Of the limit keys they add, those without room.
    closed: BTreeSet<LimitKey>,
    pub(super) first_due: Option<(FirstDue, Pair)>,
    pub(super) asked: HashMap<WorkerId, HashSet<Asked>>,
}

pub(super) fn wants(interest: &Interest, (queue, kind): &Pair) -> bool {
    interest.queues.contains(queue) && interest.kinds.iter().any(|wanted| wanted.kind == *kind)
}

impl Seen {
    /// Whether there is room for jobs of a queue and kind on this worker.
    pub(super) fn has_room(&self, interest: &Interest, (queue, kind): &Pair) -> bool {
        interest.queues.contains(queue)
            && interest.kinds.iter().any(|wanted| {
                wanted.kind == *kind && !wanted.limits.iter().any(|key| self.closed.contains(key))
            })
    }
}

/// Lanes that are looked at for one with room; are there more, then a claim sorts them.
const LANES_LOOKED_AT_MAX: u32 = 64;

/// Whether a queue that is not paused has ready jobs of a kind for which there is room, as far as
/// their own keys are concerned.
pub(crate) fn has_work(
    conn: &Connection,
    limits: &mut Limits<'_>,
    queue: &QueueName,
    kind: &Kind,
    now: Timestamp,
) -> Result<bool, Fault> {
    let name = (queue.as_str(), kind.as_str());
    if conn.prepare_cached(SELECT_HAS_READY)?.exists(name)? {
        return Ok(true);
    }
    let found = has_room(conn, limits, queue, kind, now)?;
    Ok(found && !conn.prepare_cached(HAS_PAUSE)?.exists([queue.as_str()])?)
}

/// The same for jobs with limit keys, paused or not.
fn has_room(
    conn: &Connection,
    limits: &mut Limits<'_>,
    queue: &QueueName,
    kind: &Kind,
    now: Timestamp,
) -> Result<bool, Fault> {
    let name = (queue.as_str(), kind.as_str());
    if conn.prepare_cached(HAS_OPEN)?.exists((name.0, name.1, ms(now)))? {
        return Ok(true);
    }
    let mut select = conn.prepare_cached(SELECT_RUNNABLE)?;
    let values = (name.0, name.1, i64::MIN, i64::MIN, LANES_LOOKED_AT_MAX);
    let mut rows = select.query(values)?;
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        looked_at += 1;
        let keys = text(row, 3)?.and_then(limits_of);
        if let Some(keys) = keys
            && limits.is_open(&keys, now)?
        {
            return Ok(true);
        }
    }
    Ok(looked_at == LANES_LOOKED_AT_MAX)
}

/// Looks for those who have just come and, if anybody has committed since `version`, for all.
/// Answers the version that the file had before, and what was found.
pub(super) fn look(
    conn: &Connection,
    round: &Round,
    version: Option<i64>,
) -> Result<(i64, Option<Seen>), Fault> {
    // Asked first, so that what is committed meanwhile is looked at the next time.
    let now: i64 = conn.prepare_cached(DATA_VERSION)?.query_row([], |row| row.get(0))?;
    let everybody = round.everybody || version != Some(now);
    let waiters: Vec<_> =
        round.waiters.iter().filter(|(.., fresh)| everybody || *fresh).cloned().collect();
    if waiters.is_empty() {
        return Ok((now, None));
    }
    let mut pairs = BTreeSet::new();
    for (_, interest, _) in &waiters {
        for queue in &interest.queues {
            let kinds = interest.kinds.iter().map(|wanted| &wanted.kind);
            pairs.extend(kinds.map(|kind| (queue.clone(), kind.clone())));
        }
    }
    let mut ready = BTreeSet::new();
    let (clock, mut limits) = (clock(conn)?, Limits::new(conn));
    for pair in pairs {
        if has_work(conn, &mut limits, &pair.0, &pair.1, clock)? {
            ready.insert(pair);
        }
    }
    let mut closed = BTreeSet::new();
    let added = waiters.iter().flat_map(|(_, interest, _)| &interest.kinds);
    for key in added.flat_map(|kind| kind.limits.iter()) {
        if !limits.is_open(std::slice::from_ref(key), clock)? {
            closed.insert(key.clone());
        }
    }
    let (first_due, asked) = (first_due(conn)?, asked(conn, &waiters)?);
    Ok((now, Some(Seen { waiters, ready, closed, first_due, asked })))
}

fn first_due(conn: &Connection) -> Result<Option<(FirstDue, Pair)>, Fault> {
    let mut select = conn.prepare_cached(SELECT_FIRST_DUE)?;
    let first = select.query_row([], |row| {
        Ok(((number(row, 0)?, sixteen(row, 1)?.unwrap_or_default()), number(row, 2)?))
    });
    let Some((first_due, lane)) = first.optional()? else { return Ok(None) };
    let mut select = conn.prepare_cached(SELECT_LANE_NAMES)?;
    let named = select.query_row([lane], |row| names(row, 0)).optional()?.flatten();
    Ok(named.map(|lane| (first_due, (lane.queue, lane.kind))))
}

fn asked(
    conn: &Connection,
    waiters: &[(u64, Arc<Interest>, bool)],
) -> Result<HashMap<WorkerId, HashSet<Asked>>, Fault> {
    let mut asked: HashMap<WorkerId, HashSet<Asked>> = HashMap::new();
    if !conn.prepare_cached(HAS_ASKED)?.exists([])? {
        return Ok(asked);
    }
    let mut select = conn.prepare_cached(SELECT_ASKED_OF_WORKER)?;
    for (_, interest, _) in waiters {
        if asked.contains_key(&interest.worker) {
            continue;
        }
        let requests = select.query_map([interest.worker.as_str()], |row| {
            let (id, token) = (sixteen(row, 0)?, sixteen(row, 1)?);
            Ok(id.map(JobId::from_bytes).zip(token.map(ClaimToken::from_bytes)))
        })?;
        let requests: Vec<_> = requests.collect::<Result<_, _>>()?;
        asked.insert(interest.worker.clone(), requests.into_iter().flatten().collect());
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::{Opened, prepare};

    fn interest() -> Arc<Interest> {
        Arc::new(Interest {
            worker: WorkerId::new("w").unwrap(),
            queues: vec![QueueName::default()],
            kinds: vec![queue_core::KindLimits::new("k".parse().unwrap())],
        })
    }

    /// A look that cannot find anything new costs no more than a question.
    #[test]
    fn all_are_looked_for_after_a_commit_of_anybody_and_else_only_those_who_have_come() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let Opened { path, conn, .. } = prepare(&path, &crate::SqliteOptions::default()).unwrap();
        let other = Connection::open(path).unwrap();
        let round = |everybody| Round {
            everybody,
            waiters: vec![(1, interest(), false), (2, interest(), true)],
        };
        let looked = |round: Round, version| {
            let (now, seen) = look(&conn, &round, version).unwrap();
            let seen = seen.map_or(Vec::new(), |seen| seen.waiters);
            (now, seen.into_iter().map(|(number, ..)| number).collect::<Vec<_>>())
        };
        let (version, all) = looked(round(false), None);
        assert_eq!(all, [1, 2]);
        assert_eq!(looked(round(false), Some(version)), (version, vec![2]));
        assert_eq!(looked(round(true), Some(version)), (version, vec![1, 2]));
        other.execute("UPDATE store SET turn = turn + 1", []).unwrap();
        let (later, all) = looked(round(false), Some(version));
        assert_eq!((later != version, all), (true, vec![1, 2]));
        let mut nobody = round(false);
        nobody.waiters.truncate(1);
        assert!(look(&conn, &nobody, Some(later)).unwrap().1.is_none());
    }
}
