//! The model test: random sequences of calls, made on the memory backend and on the backend under
//! test with both clocks at the same instants. After every step the answers must be equal, every
//! job must look the same, the counts must agree and the audit must find nothing (promise P4).
//! Any call may be made twice, as after a lost reply (promise P3), the backend under test may be
//! reached through a new connection in between, and both stores may be put back to an earlier
//! state under clients that remember a later one (promise P5).

/// Makes a call on both stores.
macro_rules! on_both {
    ($self:ident . $call:ident ( $($argument:expr),* )) => {{
        let model = answered("the model", $self.model.$call($($argument),*).await)?;
        let real = answered(stringify!($call), $self.real.$call($($argument),*).await)?;
        (model, real)
    }};
}

mod operate;
mod steps;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::Harness;
use super::store::without_durability;
use crate::backend::Violation;
use crate::{
    Backend, Claim, ClaimRequest, Durability, Error, JobId, ManualClock, MemoryBackend, Outcome,
    RenewRequest, SettleRequest, Timestamp,
};
use steps::{Step, World, sequences};

/// How many sequences are tried unless `MODEL_CASES` says otherwise.
const CASES_DEFAULT: u32 = 48;

/// 2100-01-01: both clocks start here, far ahead of the real time, and stand still between steps.
const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);

/// Runs the model test against the backend of `harness`.
///
/// # Panics
/// With the shortest sequence found that makes the two differ.
pub fn check<H: Harness>(harness: &H) {
    let cases = std::env::var("MODEL_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(CASES_DEFAULT),
        failure_persistence: None,
        max_shrink_iters: 400,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    let result = TestRunner::new(config).run(&sequences(), |steps| {
        runtime.block_on(run(harness, steps)).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

async fn run<H: Harness>(harness: &H, steps: Vec<Step>) -> Result<(), String> {
    let clock = Arc::new(ManualClock::new(START));
    let mut pair = Pair {
        harness,
        model: MemoryBackend::with_clock(clock.clone()),
        real: harness.fresh(START).await,
        clock,
        limits_used: false,
        snapshot: None,
    };
    let mut world = World::new(START);
    for (index, step) in steps.iter().enumerate() {
        let at = |problem: String| format!("step {index}, {step:?}: {problem}");
        pair.make(step, &mut world).await.map_err(at)?;
        pair.compare(&world.ids).await.map_err(at)?;
    }
    Ok(())
}

/// The two stores.
struct Pair<'a, H: Harness> {
    harness: &'a H,
    model: MemoryBackend,
    real: H::Backend,
    clock: Arc<ManualClock>,
    /// Whether there has been a job with limit keys, a limit, or a closed key.
    limits_used: bool,
    /// Both stores as they once were.
    snapshot: Option<(MemoryBackend, Vec<u8>)>,
}

fn equal<T: PartialEq + Debug>(what: &str, model: &T, real: &T) -> Result<(), String> {
    if model == real {
        return Ok(());
    }
    Err(format!("{what} differs\n  model: {model:?}\n  real:  {real:?}"))
}

fn answered<T>(what: &str, answer: Result<T, Error>) -> Result<T, String> {
    answer.map_err(|error| format!("{what} failed: {error}"))
}

impl<H: Harness> Pair<'_, H> {
    async fn make(&mut self, step: &Step, world: &mut World) -> Result<(), String> {
        match step {
            Step::Enqueue { jobs, twice } => {
                let jobs = world.jobs(jobs);
                self.limits_used |= jobs.iter().any(|job| !job.spec.limits.is_empty());
                for _ in 0..1 + u8::from(*twice) {
                    let (model, real) = on_both!(self.enqueue(&jobs, Durability::Memory));
                    let plain = |outcomes: Vec<_>| -> Vec<_> {
                        outcomes.into_iter().map(without_durability).collect()
                    };
                    equal("enqueue", &plain(model), &plain(real))?;
                }
            }
            Step::Claim { claim, twice } => {
                let request = world.claim(claim);
                self.claim(&request, *twice, world).await?;
            }
            Step::RepeatClaim { claim } => {
                if let Some(request) = world.old_claim(*claim) {
                    self.claim(&request, true, world).await?;
                }
            }
            Step::Settle { ends, claim, twice } => {
                let request = world.settle(ends, claim.as_ref());
                let closes = |outcome: &Outcome| matches!(outcome, Outcome::Throttled { limits, .. } if !limits.is_empty());
                self.limits_used |= request.settlements.iter().any(|s| closes(&s.outcome));
                self.settle(&request, *twice, world).await?;
            }
            Step::Renew { claims, lease } => {
                let tokens = world.tokens(claims);
                let request = RenewRequest { tokens, lease: *lease };
                let (model, real) = on_both!(self.renew(&request));
                equal("renew", &model, &real.into_iter().map(sorted).collect())?;
            }
            Step::Cancel { jobs, twice } => {
                let ids = world.some_ids(jobs);
                for _ in 0..1 + u8::from(*twice) {
                    let (model, real) = on_both!(self.cancel(&ids));
                    equal("cancel", &model, &real)?;
                }
            }
            Step::Retry { jobs, keep_counts, late, twice } => {
                let ids = world.some_ids(jobs);
                self.retry(&ids, *keep_counts, *late, 1 + u8::from(*twice)).await?;
            }
            Step::Delete { jobs, state, twice } => {
                self.delete(&world.some_ids(jobs), *state, 1 + u8::from(*twice)).await?;
            }
            Step::Pause { queue, paused, twice } => {
                self.pause(&world.queue(*queue), *paused, 1 + u8::from(*twice)).await?;
            }
            Step::Limit { target, settings, twice } => {
                self.limits_used = true;
                let (target, settings) = world.limit(*target, settings.as_ref());
                self.set_limit(&target, settings.as_ref(), 1 + u8::from(*twice)).await?;
            }
            Step::ResetLimit { key, twice } => {
                self.reset_limit(*key, 1 + u8::from(*twice)).await?;
            }
            Step::Report { reports, twice } => {
                self.report(reports, 1 + u8::from(*twice), world).await?;
            }
            Step::Snapshot => {
                let real = self.harness.snapshot(&self.real).await;
                self.snapshot = real.map(|real| (self.model.fork(), real));
            }
            Step::RollBack => self.roll_back(world).await,
            Step::Maintain { budget } => {
                let (model, real) = on_both!(self.maintain(*budget));
                equal("maintain", &model, &real)?;
            }
            Step::Advance { by } => self.advance(*by, world).await,
            Step::Reconnect => {
                if let Some(real) = self.harness.reconnect(&self.real).await {
                    self.real = real;
                }
            }
        }
        Ok(())
    }

    /// Both stores forget everything since the snapshot (promise P5); clients do not.
    async fn roll_back(&mut self, world: &World) {
        if let Some((model, real)) = &self.snapshot {
            self.model = model.fork();
            self.harness.restore(&self.real, real).await;
            self.harness.set_clock(&self.real, world.now).await;
        }
    }

    async fn advance(&self, by: Duration, world: &mut World) {
        world.now = world.now.after(by);
        self.clock.set(world.now);
        self.harness.set_clock(&self.real, world.now).await;
    }

    async fn claim(
        &self,
        request: &ClaimRequest,
        twice: bool,
        world: &mut World,
    ) -> Result<(), String> {
        let (model, real) = on_both!(self.claim(request));
        world.claimed(&model);
        // A claim whose token holds jobs is answered with these, in any order.
        let repeats = world.holds(request.token);
        if !repeats {
            self.check_limits(request, &real, &world.ids).await?;
        }
        self.equal_claims("claim", &in_order(model, repeats), in_order(real, repeats))?;
        if twice {
            let (model, real) = on_both!(self.claim(request));
            world.claimed(&model);
            self.equal_claims("repeated claim", &in_order(model, true), in_order(real, true))?;
        }
        world.note(request);
        Ok(())
    }

    async fn settle(
        &self,
        request: &SettleRequest,
        twice: bool,
        world: &mut World,
    ) -> Result<(), String> {
        for repeats in [false, true].into_iter().take(1 + usize::from(twice)) {
            let (model, real) = on_both!(self.settle(request));
            equal("settle", &model.settled, &real.settled)?;
            model.claim.iter().for_each(|claim| world.claimed(claim));
            let claims = |claim: Option<Claim>| claim.map(|claim| in_order(claim, repeats));
            if let Some((model, real)) = claims(model.claim).zip(claims(real.claim)) {
                self.equal_claims("claim of a settle", &model, real)?;
            }
        }
        request.claim.iter().for_each(|claim| world.note(claim));
        Ok(())
    }

    /// With limits, a store may ask to be asked, and to be maintained, earlier than the model does,
    /// and if there is more at once it need not have looked for anything later.
    fn equal_claims(&self, what: &str, model: &Claim, mut real: Claim) -> Result<(), String> {
        let far = Duration::MAX;
        let is_early = real.next_due.unwrap_or(far) <= model.next_due.unwrap_or(far);
        if self.limits_used && (is_early || model.more) {
            real.next_due = model.next_due;
        }
        real.maintain &= model.maintain || !self.limits_used;
        equal(what, model, &real)
    }

    async fn compare(&self, ids: &[JobId]) -> Result<(), String> {
        let (model, real) = on_both!(self.get(ids));
        for (model, real) in model.iter().zip(&real) {
            equal("a record", model, real)?;
        }
        let (model, real) = on_both!(self.stats());
        equal("stats", &model, &real)?;
        let (model, real) = on_both!(self.audit(false));
        equal("audit of the model", &Vec::<Violation>::new(), &model)?;
        equal("audit", &Vec::<Violation>::new(), &real)?;
        self.compare_views(ids).await
    }
}

fn sorted(renewal: crate::Renewal) -> crate::Renewal {
    match renewal {
        crate::Renewal::Held { mut cancel_requested } => {
            cancel_requested.sort();
            crate::Renewal::Held { cancel_requested }
        }
        other => other,
    }
}

/// A first claim is compared in its order; of a repeat only what it holds.
fn in_order(mut claim: Claim, any_order: bool) -> Claim {
    if any_order {
        claim.leases.sort_by_key(|lease| lease.spec.id);
        claim.leases.iter_mut().for_each(|lease| lease.fence = 0);
    }
    claim
}
