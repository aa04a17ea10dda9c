//! What a random sequence is made of. A step names jobs and claims by number, so that a sequence
//! stays meaningful when proptest makes it shorter.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::{
    Adaptive, Breaker, Claim, ClaimRequest, ClaimToken, ErrorKind, Hold, JobError, JobId, JobState,
    Kind, KindSlots, LimitKeys, LimitSettings, LimitTarget, NewJob, OnConflict, Outcome, Payload,
    Progress, QUEUE_CLASS, QueueName, Rate, Report, Retention, SettleRequest, Settlement,
    Timestamp, WorkerId,
};

/// The ids that jobs are made with; few, so that they meet.
const IDS: u8 = 24;
const KEYS: u8 = 3;
const KINDS: [&str; 3] = ["a", "b", "c"];
const QUEUES: [&str; 2] = ["default", "other"];
/// The limit keys of jobs, workers and settings; few, so that lanes meet at them.
pub(super) const LIMITS: [&str; 4] = ["provider:x", "provider:y", "tenant:a", "tenant:b"];
const TARGETS: [&str; 7] =
    ["provider:x", "provider:y", "tenant:a", "tenant:*", "provider:*", "queue:default", "queue:*"];

#[derive(Debug, Clone)]
pub(super) enum Step {
    Enqueue {
        jobs: Vec<JobPlan>,
        twice: bool,
    },
    Claim {
        claim: ClaimPlan,
        twice: bool,
    },
    RepeatClaim {
        claim: Index,
    },
    Settle {
        ends: Vec<End>,
        claim: Option<ClaimPlan>,
        twice: bool,
    },
    Renew {
        claims: Vec<Index>,
        lease: Duration,
    },
    Cancel {
        jobs: Vec<u8>,
        twice: bool,
    },
    Retry {
        jobs: Vec<u8>,
        keep_counts: bool,
        late: bool,
        twice: bool,
    },
    /// Without a state, in the one that each job is in.
    Delete {
        jobs: Vec<u8>,
        state: Option<JobState>,
        twice: bool,
    },
    Pause {
        queue: usize,
        paused: bool,
        twice: bool,
    },
    /// Without settings, removes them.
    Limit {
        target: usize,
        settings: Option<LimitSettings>,
        twice: bool,
    },
    ResetLimit {
        key: usize,
        twice: bool,
    },
    Report {
        reports: Vec<ReportPlan>,
        twice: bool,
    },
    Snapshot,
    RollBack,
    Maintain {
        budget: u32,
    },
    Advance {
        by: Duration,
    },
    Reconnect,
}

#[derive(Debug, Clone)]
pub(super) struct JobPlan {
    id: u8,
    payload: u8,
    kind: usize,
    queue: usize,
    priority: u8,
    delay_ms: u64,
    key: Option<u8>,
    hold: Hold,
    on_conflict: OnConflict,
    max_attempts: u16,
    max_stalls: u8,
    expires_in: Option<Duration>,
    retention_sec: u64,
    /// Whether all settings are the usual ones, as a store may expect of most jobs.
    usual: bool,
    limits: Vec<usize>,
}

#[derive(Debug, Clone)]
pub(super) struct ClaimPlan {
    queues: Vec<usize>,
    slots: [u32; 3],
    /// The key that the worker adds for the first kind.
    limit: Option<usize>,
    max: u32,
    lease: Duration,
}

#[derive(Debug, Clone)]
pub(super) struct End {
    lease: Index,
    outcome: Outcome,
}

#[derive(Debug, Clone)]
pub(super) struct ReportPlan {
    lease: Index,
    percent: Option<u8>,
    lines_before: u64,
    lines: u8,
}

pub(super) fn sequences() -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..60)
}

fn step() -> impl Strategy<Value = Step> {
    let twice = || prop::bool::weighted(0.2);
    prop_oneof![
        8 => (vec(job_plan(), 1..8), twice())
            .prop_map(|(jobs, twice)| Step::Enqueue { jobs, twice }),
        8 => (claim_plan(), twice()).prop_map(|(claim, twice)| Step::Claim { claim, twice }),
        1 => any::<Index>().prop_map(|claim| Step::RepeatClaim { claim }),
        8 => (vec(end(), 0..6), prop::option::of(claim_plan()), twice())
            .prop_map(|(ends, claim, twice)| Step::Settle { ends, claim, twice }),
        3 => (vec(any::<Index>(), 1..4), lease())
            .prop_map(|(claims, lease)| Step::Renew { claims, lease }),
        3 => (some_jobs(), twice()).prop_map(|(jobs, twice)| Step::Cancel { jobs, twice }),
        3 => (some_jobs(), any::<bool>(), prop::bool::weighted(0.1), twice()).prop_map(
            |(jobs, keep_counts, late, twice)| Step::Retry { jobs, keep_counts, late, twice }
        ),
        2 => (some_jobs(), prop::option::weighted(0.2, state()), twice())
            .prop_map(|(jobs, state, twice)| Step::Delete { jobs, state, twice }),
        1 => (0..QUEUES.len(), prop::bool::weighted(0.4), twice())
            .prop_map(|(queue, paused, twice)| Step::Pause { queue, paused, twice }),
        3 => (0..TARGETS.len(), prop::option::weighted(0.8, settings()), twice())
            .prop_map(|(target, settings, twice)| Step::Limit { target, settings, twice }),
        1 => (0..LIMITS.len(), twice()).prop_map(|(key, twice)| Step::ResetLimit { key, twice }),
        3 => (vec(report_plan(), 1..4), twice())
            .prop_map(|(reports, twice)| Step::Report { reports, twice }),
        1 => Just(Step::Snapshot),
        1 => Just(Step::RollBack),
        3 => prop_oneof![1_u32..4, Just(500)].prop_map(|budget| Step::Maintain { budget }),
        4 => duration().prop_map(|by| Step::Advance { by }),
        1 => Just(Step::Reconnect),
    ]
}

fn some_jobs() -> impl Strategy<Value = Vec<u8>> {
    vec(0..IDS + 2, 1..4)
}

fn state() -> impl Strategy<Value = JobState> {
    prop::sample::select(JobState::ALL.to_vec())
}

/// What is used of it depends on the target.
fn settings() -> impl Strategy<Value = LimitSettings> {
    let some_time = || prop_oneof![Just(20_u64), Just(1_000), Just(10_000)];
    let rate = (1_u32..4, some_time(), 1_u32..4).prop_map(|(count, period_ms, burst)| {
        Rate::new(count, Duration::from_millis(period_ms)).with_burst(burst)
    });
    let breaker = (1_u32..3, some_time(), some_time()).prop_map(|(failures, window, cooldown)| {
        let [window, cooldown] = [window, cooldown].map(Duration::from_millis);
        Breaker { failures, window, cooldown }
    });
    let settings = (
        prop::option::weighted(0.7, 1_u32..4),
        prop::option::weighted(0.4, rate),
        prop::option::weighted(0.4, breaker),
        prop::option::weighted(0.5, 1_u32..3),
        prop::option::weighted(0.2, 1_u32..4),
        prop::option::weighted(0.2, 1_u64..12),
    );
    settings.prop_map(|(concurrency, rate, breaker, floor, weight, max_live)| {
        let floor = floor.zip(concurrency).filter(|(floor, most)| floor <= most);
        LimitSettings {
            concurrency,
            rate,
            breaker,
            adaptive: floor.map(|(floor, _)| Adaptive { floor }),
            weight,
            max_live,
        }
    })
}

fn report_plan() -> impl Strategy<Value = ReportPlan> {
    (any::<Index>(), prop::option::of(0_u8..=100), 0_u64..4, 0_u8..4).prop_map(
        |(lease, percent, lines_before, lines)| ReportPlan { lease, percent, lines_before, lines },
    )
}

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![1_u64..50, 900..1100_u64, Just(5_000), Just(60_000)].prop_map(Duration::from_millis)
}

fn lease() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(1_000_u64), Just(10_000)].prop_map(Duration::from_millis)
}

fn job_plan() -> impl Strategy<Value = JobPlan> {
    let identity = (0..IDS, 0_u8..3, 0..KINDS.len(), 0..QUEUES.len());
    let order = (
        prop_oneof![Just(0_u8), Just(5), Just(9)],
        prop_oneof![
            6 => Just(0_u64),
            2 => 1..1500_u64,
            1 => Just(10_000),
        ],
    );
    let conflict = (
        prop::option::weighted(0.4, 0..KEYS),
        prop_oneof![
            Just(Hold::Kept),
            Just(Hold::Live),
            Just(Hold::AtLeast(Duration::from_secs(6))),
            Just(Hold::AtLeast(Duration::from_millis(100))),
        ],
        prop_oneof![
            6 => Just(OnConflict::Existing),
            1 => Just(OnConflict::Reject),
            3 => Just(OnConflict::Replace),
        ],
    );
    let limits = (
        1_u16..4,
        1_u8..3,
        prop::option::weighted(0.15, duration()),
        prop_oneof![3 => Just(86_400_u64), 1 => Just(0), 1 => Just(5)],
    );
    let keys = prop_oneof![Just(Vec::new()), prop::sample::subsequence(vec![0, 1, 2, 3], 0..=3),];
    let all = (identity, order, conflict, limits, prop::bool::ANY, keys);
    all.prop_map(|(identity, order, conflict, limits, usual, keys)| JobPlan {
        id: identity.0,
        payload: identity.1,
        kind: identity.2,
        queue: identity.3,
        priority: order.0,
        delay_ms: order.1,
        key: conflict.0,
        hold: conflict.1,
        on_conflict: conflict.2,
        max_attempts: limits.0,
        max_stalls: limits.1,
        expires_in: limits.2,
        retention_sec: limits.3,
        usual,
        limits: keys,
    })
}

fn claim_plan() -> impl Strategy<Value = ClaimPlan> {
    let queues = prop_oneof![Just(vec![0]), Just(vec![0, 1]), Just(vec![1, 0])];
    let limit = prop::option::weighted(0.3, 0..LIMITS.len());
    (queues, prop::array::uniform3(0_u32..4), limit, 1_u32..7, lease()).prop_map(
        |(queues, slots, limit, max, lease)| ClaimPlan { queues, slots, limit, max, lease },
    )
}

fn end() -> impl Strategy<Value = End> {
    let delay = || prop_oneof![Just(Duration::ZERO), duration()];
    let kind = prop::sample::select(vec![
        ErrorKind::Failed,
        ErrorKind::TimedOut,
        ErrorKind::Panicked,
        ErrorKind::Internal,
    ]);
    let error = || (kind.clone(), "[a-z]{0,8}").prop_map(|(kind, text)| JobError::new(kind, text));
    let limits = prop::sample::subsequence(vec![0, 1, 2, 3], 0..=2);
    let outcome = prop_oneof![
        4 => prop::option::of("[a-z]{0,8}")
            .prop_map(|result| Outcome::Completed { result: result.map(Payload::raw) }),
        4 => (delay(), error()).prop_map(|(delay, error)| Outcome::Retry { delay, error }),
        1 => error().prop_map(|error| Outcome::Dead { error }),
        2 => Just(Outcome::Released),
        2 => delay().prop_map(|delay| Outcome::Snoozed { delay }),
        2 => (delay(), limits)
            .prop_map(|(delay, limits)| Outcome::Throttled { delay, limits: limit_keys(&limits) }),
        1 => Just(Outcome::Cancelled),
    ];
    (any::<Index>(), outcome).prop_map(|(lease, outcome)| End { lease, outcome })
}

/// Turns the numbers of steps into ids and tokens, and remembers what was handed out.
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) ids: Vec<JobId>,
    tokens_made: u64,
    /// The token and job of every lease that was ever given.
    leases: Vec<(ClaimToken, JobId)>,
    claims: Vec<ClaimRequest>,
}

fn limit_keys(numbers: &[usize]) -> LimitKeys {
    LimitKeys::parse(numbers.iter().map(|number| LIMITS[*number])).unwrap_or_default()
}

/// Ids whose order is not the order of their numbers.
fn id(number: u8) -> JobId {
    let mut bytes = [number; 16];
    bytes[0] = number.wrapping_mul(37);
    JobId::from_bytes(bytes)
}

#[expect(clippy::unwrap_used, reason = "the names are constants of this file")]
impl World {
    pub(super) fn new(now: Timestamp) -> Self {
        let ids = (0..IDS).map(id).collect();
        Self { now, ids, tokens_made: 0, leases: Vec::new(), claims: Vec::new() }
    }

    pub(super) fn jobs(&self, plans: &[JobPlan]) -> Vec<NewJob> {
        plans.iter().map(|plan| self.job(plan)).collect()
    }

    fn job(&self, plan: &JobPlan) -> NewJob {
        let payload = Payload::raw(vec![plan.payload; usize::from(plan.payload)]);
        let kept = Duration::from_secs(plan.retention_sec);
        let mut job = NewJob::new(Kind::new(KINDS[plan.kind]).unwrap(), payload)
            .id(id(plan.id))
            .queue(QUEUES[plan.queue])
            .priority(plan.priority)
            .delay(Duration::from_millis(plan.delay_ms))
            .on_conflict(plan.on_conflict);
        if plan.usual {
            job = job.retention(Retention { completed: kept, ..Retention::default() });
        } else {
            job = job
                .max_attempts(plan.max_attempts)
                .max_stalls(plan.max_stalls)
                .hold(plan.hold)
                .retention(Retention { completed: kept, dead: kept });
        }
        job = plan.limits.iter().fold(job, |job, key| job.limit(LIMITS[*key]));
        if let Some(key) = plan.key {
            job = job.idempotency_key(format!("key-{key}"));
        }
        if let Some(expires_in) = plan.expires_in {
            let expires_at = self.now.after(expires_in).as_ms();
            job = job.expires_at(UNIX_EPOCH + Duration::from_millis(expires_at));
        }
        job
    }

    pub(super) fn claim(&mut self, plan: &ClaimPlan) -> ClaimRequest {
        self.tokens_made += 1;
        let token = u128::from(self.tokens_made).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced);
        let slots = KINDS.iter().zip(plan.slots);
        ClaimRequest {
            token: ClaimToken::from_bytes(token.to_be_bytes()),
            worker: WorkerId::new(format!("worker-{}", self.tokens_made % 3)).unwrap(),
            queues: plan.queues.iter().map(|q| QueueName::new(QUEUES[*q]).unwrap()).collect(),
            kinds: (0_usize..)
                .zip(slots)
                .map(|(place, (kind, slots))| KindSlots {
                    kind: Kind::new(kind).unwrap(),
                    slots,
                    limits: limit_keys(plan.limit.filter(|_| place == 0).as_slice()),
                })
                .collect(),
            max: plan.max,
            round_jobs: 0,
            lease: plan.lease,
        }
    }

    pub(super) fn old_claim(&self, claim: Index) -> Option<ClaimRequest> {
        (!self.claims.is_empty()).then(|| claim.get(&self.claims).clone())
    }

    pub(super) fn note(&mut self, request: &ClaimRequest) {
        if self.claims.iter().all(|known| known.token != request.token) {
            self.claims.push(request.clone());
        }
    }

    pub(super) fn holds(&self, token: ClaimToken) -> bool {
        self.claims.iter().any(|known| known.token == token)
    }

    pub(super) fn claimed(&mut self, claim: &Claim) {
        for lease in &claim.leases {
            let given = (lease.token, lease.spec.id);
            if !self.leases.contains(&given) {
                self.leases.push(given);
            }
        }
    }

    pub(super) fn settle(&mut self, ends: &[End], claim: Option<&ClaimPlan>) -> SettleRequest {
        let mut settlements: HashMap<JobId, Settlement> = HashMap::new();
        let mut order = Vec::new();
        for (place, end) in ends.iter().enumerate().filter(|_| !self.leases.is_empty()) {
            let (token, id) = *end.lease.get(&self.leases);
            let elapsed = Duration::from_millis(10 * place as u64);
            let outcome = end.outcome.clone();
            order.push(id);
            settlements.entry(id).or_insert(Settlement { id, token, outcome, elapsed });
        }
        let settlements = order.iter().filter_map(|id| settlements.remove(id)).collect();
        SettleRequest { settlements, claim: claim.map(|plan| self.claim(plan)) }
    }

    /// Settings that are legal for their target.
    pub(super) fn limit(
        &self,
        target: usize,
        settings: Option<&LimitSettings>,
    ) -> (LimitTarget, Option<LimitSettings>) {
        let target = LimitTarget::new(TARGETS[target]).unwrap();
        let max_live = settings.and_then(|settings| settings.max_live);
        let of_queue = LimitSettings { max_live, ..LimitSettings::default() };
        let settings = settings.map(|settings| match target.class() {
            QUEUE_CLASS => &of_queue,
            _ => settings,
        });
        let settings = settings.filter(|settings| !settings.is_empty()).cloned();
        (target, settings)
    }

    pub(super) fn queue(&self, number: usize) -> QueueName {
        QueueName::new(QUEUES[number]).unwrap()
    }

    /// Reports of leases that may be long lost; of a job only one.
    pub(super) fn reports(&self, plans: &[ReportPlan]) -> Vec<Report> {
        let mut reports: Vec<Report> = Vec::new();
        for plan in plans.iter().filter(|_| !self.leases.is_empty()) {
            let (token, id) = *plan.lease.get(&self.leases);
            if reports.iter().any(|report| report.id == id) {
                continue;
            }
            let line = |n| format!("line {}", plan.lines_before + u64::from(n));
            reports.push(Report {
                id,
                token,
                progress: plan.percent.map(|percent| Progress::new(percent, line(percent))),
                lines_before: plan.lines_before,
                lines: (0..plan.lines).map(line).collect(),
            });
        }
        reports
    }

    pub(super) fn tokens(&self, claims: &[Index]) -> Vec<ClaimToken> {
        let mut tokens = vec![ClaimToken::from_bytes([0xee; 16])];
        for claim in claims.iter().filter(|_| !self.claims.is_empty()) {
            let token = claim.get(&self.claims).token;
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        tokens
    }

    /// Ids by number; those beyond the pool are of jobs that never existed.
    pub(super) fn some_ids(&self, numbers: &[u8]) -> Vec<JobId> {
        let mut ids: Vec<JobId> = numbers.iter().copied().map(id).collect();
        ids.sort();
        ids.dedup();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_differ_and_are_not_in_the_order_of_their_numbers() {
        let ids: Vec<JobId> = (0..IDS + 2).map(id).collect();
        let mut sorted = ids.clone();
        sorted.sort();
        assert_ne!(ids, sorted);
        sorted.dedup();
        assert_eq!(sorted.len(), ids.len());
    }
}
