//! Enqueues that follow each other in a transaction leave what jobs share to be written later. Whatever
//! comes between, that must come to the same as if each had written its own.

use std::cell::RefCell;
use std::time::Duration;

use fastrand::Rng;
use queue_core::{
    ClaimRequest, ClaimToken, Durability, ErrorKind, JobError, JobId, KindSlots, LimitKeys,
    LimitSettings, LimitTarget, NewJob, OnConflict, Outcome, Payload, QueueName, Retention,
    Settlement, WorkerId,
};
use rusqlite::Connection;

use super::{cancel, claim, enqueue, limits, settle};
use crate::SqliteOptions;
use crate::open::{Opened, Room, prepare};
use crate::session::{Memory, Session};

/// A store, and what its writer remembers.
struct Store {
    conn: Connection,
    room: Room,
    memory: RefCell<Memory>,
    _directory: tempfile::TempDir,
}

enum Op {
    Enqueue(Vec<NewJob>),
    Claim(ClaimRequest),
    Settle(Vec<Settlement>),
    Cancel(Vec<JobId>),
    Limit(LimitTarget, Option<LimitSettings>),
}

/// What was answered, and which jobs were given.
type Said = (String, Vec<(JobId, ClaimToken)>);

impl Store {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let Opened { conn, room, .. } = prepare(&path, &SqliteOptions::default()).unwrap();
        // In the future, where it stands still.
        conn.execute("UPDATE store SET clock_ms = 4102444800000", []).unwrap();
        Self { conn, room, memory: RefCell::default(), _directory: directory }
    }

    fn pass(&self, ms: u64) {
        self.conn.execute("UPDATE store SET clock_ms = clock_ms + ?1", [ms as i64]).unwrap();
        // As another connection's commit does it.
        *self.memory.borrow_mut() = Memory::default();
    }

    /// All in one transaction, or each in its own.
    fn run(&self, ops: &[Op], together: bool) -> Vec<Said> {
        let all = if together { ops.len() } else { 1 };
        let mut said = Vec::new();
        for some in ops.chunks(all.max(1)) {
            self.conn.execute_batch("BEGIN IMMEDIATE").unwrap();
            let mut session = Session::new(&self.conn, &self.memory).unwrap();
            for op in some {
                let joins = together && matches!(op, Op::Enqueue(_));
                if !joins {
                    session.write_out().unwrap();
                }
                session.start_step();
                said.push(self.step(&mut session, op));
                match joins {
                    true => session.leave_step(),
                    false => session.end_step().unwrap(),
                }
            }
            session.write_out().unwrap();
            self.conn.execute_batch("COMMIT").unwrap();
            session.committed();
        }
        said
    }

    fn step(&self, session: &mut Session<'_>, op: &Op) -> Said {
        let mut given = Vec::new();
        let said = match op {
            Op::Enqueue(jobs) => {
                let done = enqueue::enqueue(session, jobs, Durability::Fsync, &self.room).unwrap();
                format!("{done:?}")
            }
            Op::Claim(request) => {
                let (claimed, _) = claim::claim(session, request, &self.room).unwrap();
                given.extend(claimed.leases.iter().map(|lease| (lease.spec.id, lease.token)));
                format!("{:?} {given:?} {}", claimed.more, claimed.spare)
            }
            Op::Settle(ends) => format!("{:?}", settle::settle(session, ends, &self.room).unwrap()),
            Op::Cancel(ids) => format!("{:?}", cancel::cancel(session, ids).unwrap()),
            Op::Limit(target, settings) => {
                let was_set = limits::set_limit(session, target, settings.as_ref()).unwrap();
                format!("{was_set}")
            }
        };
        (said, given)
    }

    /// All that is stored but rowids, which may differ.
    fn dump(&self) -> Vec<String> {
        let tables = [
            "SELECT hex(id), queue, kind, limits, state, due_ms, key, holds_key, failures, snoozes, \
             expiry_ms, (SELECT count(*) FROM job AS other WHERE other.lane = job.lane \
             AND other.state = 3 AND job.state = 3 AND other.position < job.position) \
             FROM job LEFT JOIN lane USING (lane) ORDER BY id",
            "SELECT queue, kind, priority, limits, scheduled, retrying, ready, running, completed, \
             dead, cancelled, (SELECT count(*) FROM lane AS other WHERE other.ready > 0 \
             AND lane.ready > 0 AND other.turn < lane.turn) FROM lane ORDER BY 1, 2, 3, 4",
            "SELECT * FROM limit_key ORDER BY name",
            "SELECT * FROM queue_live ORDER BY queue",
            "SELECT queue, part, records, next_expiry_ms FROM shelf ORDER BY 1, 2",
            "SELECT hex(token), jobs, until_ms FROM claim ORDER BY token",
            "SELECT clock_ms, fence, duplicates, queue_limits, starts FROM store",
        ];
        let mut rows = Vec::new();
        for (number, table) in tables.into_iter().enumerate() {
            let mut select = self.conn.prepare(table).unwrap();
            let columns = select.column_count();
            let mut found = select.query([]).unwrap();
            while let Some(row) = found.next().unwrap() {
                let of = |column| format!("{:?}", row.get_ref(column).unwrap());
                let values: Vec<String> = (0..columns).map(of).collect();
                rows.push(format!("{number} {}", values.join(" ")));
            }
        }
        rows
    }
}

fn bytes(rng: &mut Rng) -> [u8; 16] {
    rng.u128(..).to_be_bytes()
}

fn new_job(rng: &mut Rng, ids: &mut Vec<JobId>) -> NewJob {
    let kind = ["a", "b"][rng.usize(..2)].parse().unwrap();
    let mut job = NewJob::new(kind, Payload::raw(["x", "y"][rng.usize(..2)]));
    job = job.queue(["one", "two"][rng.usize(..2)]).id(match ids.is_empty() || rng.u8(..15) > 0 {
        true => JobId::from_bytes(bytes(rng)),
        false => ids[rng.usize(..ids.len())],
    });
    ids.push(job.job_id());
    for _ in 0..rng.usize(..3) {
        job = job.limit(format!("{}:{}", ["tenant", "provider"][rng.usize(..2)], rng.u8(..3)));
    }
    if rng.u8(..3) == 0 {
        let answers = [OnConflict::Replace, OnConflict::Existing, OnConflict::Reject];
        job =
            job.idempotency_key(format!("key{}", rng.u8(..8))).on_conflict(answers[rng.usize(..3)]);
    }
    if rng.u8(..5) == 0 {
        job = job.delay(Duration::from_secs(rng.u64(..3) * 10));
    }
    match rng.bool() {
        true => job,
        false => job.retention(Retention { completed: Duration::ZERO, dead: Duration::ZERO }),
    }
}

fn settlement(rng: &mut Rng, (id, token): (JobId, ClaimToken)) -> Settlement {
    let delay = Duration::from_secs(rng.u64(..2) * 10);
    let outcome = match rng.u8(..8) {
        0 => Outcome::Retry { delay, error: JobError::new(ErrorKind::Failed, "no") },
        1 => Outcome::Released,
        2 => Outcome::Throttled { delay, limits: LimitKeys::parse(["provider:1"]).unwrap() },
        _ => Outcome::Completed { result: None },
    };
    Settlement { id, token, outcome, elapsed: Duration::from_millis(1) }
}

fn limit(rng: &mut Rng) -> Op {
    let targets = ["tenant:*", "provider:1", "queue:one", "tenant:2"];
    let target = LimitTarget::new(targets[rng.usize(..targets.len())]).unwrap();
    let mut settings = LimitSettings::default();
    if target.to_string().starts_with("queue") || rng.bool() {
        settings.max_live = Some(rng.u64(5..40));
    } else {
        settings.concurrency = Some(rng.u32(1..5));
    }
    Op::Limit(target, rng.bool().then_some(settings))
}

fn op(rng: &mut Rng, ids: &mut Vec<JobId>, running: &mut Vec<(JobId, ClaimToken)>) -> Op {
    match rng.u8(..12) {
        0..=6 => Op::Enqueue((0..rng.usize(1..24)).map(|_| new_job(rng, ids)).collect()),
        7 | 8 => {
            let max = rng.u32(1..12);
            let slots = ["a", "b"].map(|kind| KindSlots::new(kind.parse().unwrap(), max));
            Op::Claim(ClaimRequest {
                token: ClaimToken::from_bytes(bytes(rng)),
                worker: WorkerId::new("w").unwrap(),
                queues: ["one", "two"].map(|queue| QueueName::new(queue).unwrap()).to_vec(),
                kinds: slots.to_vec(),
                max,
                round_jobs: 0,
                lease: Duration::from_secs(3600),
            })
        }
        9 => Op::Cancel(rng.choose_multiple(ids.iter().copied(), 3)),
        10 => limit(rng),
        _ => {
            let ends = rng.usize(..=running.len());
            Op::Settle(running.drain(..ends).map(|job| settlement(rng, job)).collect())
        }
    }
}

#[test]
fn enqueues_that_join_come_to_the_same_as_those_that_do_not() {
    for seed in 0..8 {
        let mut rng = Rng::with_seed(seed);
        let (apart, joined) = (Store::new(), Store::new());
        let (mut ids, mut running) = (Vec::new(), Vec::new());
        for round in 0..25 {
            let ops: Vec<Op> =
                (0..rng.usize(1..12)).map(|_| op(&mut rng, &mut ids, &mut running)).collect();
            let (one, other) = (apart.run(&ops, false), joined.run(&ops, true));
            assert_eq!(one, other, "seed {seed}, round {round}");
            assert_eq!(apart.dump(), joined.dump(), "seed {seed}, round {round}");
            running.extend(one.into_iter().flat_map(|(_, given)| given));
            let ms = rng.u64(..8000);
            apart.pass(ms);
            joined.pass(ms);
        }
        assert!(ids.len() > 300 && !running.is_empty(), "or this test shows nothing");
    }
}
