//! Explanations of a store whose clock stands still: who claims and who is there is said, not run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use queue_core::{
    Backend, Blocked, Blocker, ClaimRequest, ClaimToken, Explanation, JobState, Kind, KindSlots,
    Lease, LimitKeys, LimitSettings, LimitTarget, ManualClock, MemoryBackend, NewJob, Outcome,
    Payload, Position, Queue, QueueName, Rate, Reason, SettleRequest, Settlement, Timestamp,
    WorkerId, WorkerInfo, WorkerKind,
};

use crate::support::Faulty;

const SECOND: Duration = Duration::from_secs(1);

struct Scene {
    clock: Arc<ManualClock>,
    store: MemoryBackend,
    queue: Queue,
}

fn kind(name: &str) -> Kind {
    Kind::new(name).unwrap()
}

fn queue_name(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn job(name: &str) -> NewJob {
    NewJob::new(kind(name), Payload::raw(""))
}

/// A worker of the queue `default` with so many slots, which runs `k` and adds these keys.
fn worker(name: &str, concurrency: u32, keys: &[&str]) -> WorkerInfo {
    let limits = LimitKeys::parse(keys).unwrap();
    WorkerInfo {
        id: WorkerId::new(name).unwrap(),
        instance: 1,
        queues: vec![QueueName::default()],
        ranks: vec![0],
        kinds: vec![WorkerKind { kind: kind("k"), concurrency, limits }],
        concurrency,
        running: 0,
    }
}

impl Scene {
    fn new() -> Self {
        // A span of 30 s begins.
        let clock = Arc::new(ManualClock::new(Timestamp::from_ms(30_000 * 1_000_000)));
        let store = MemoryBackend::with_clock(Arc::<ManualClock>::clone(&clock));
        Self { clock, queue: Queue::new(store.clone()), store }
    }

    async fn with(workers: &[WorkerInfo]) -> Self {
        let scene = Self::new();
        for worker in workers {
            scene.store.announce(worker, SECOND * 100_000).await.unwrap();
        }
        scene
    }

    async fn limit(&self, target: &str, settings: LimitSettings) {
        self.queue.set_limit(&LimitTarget::new(target).unwrap(), &settings).await.unwrap();
    }

    async fn rate(&self, target: &str, rate: &str) {
        let rate = rate.parse::<Rate>().unwrap().with_burst(1);
        self.limit(target, LimitSettings { rate: Some(rate), ..LimitSettings::default() }).await;
    }

    async fn concurrency(&self, target: &str, most: u32) {
        let settings = LimitSettings { concurrency: Some(most), ..LimitSettings::default() };
        self.limit(target, settings).await;
    }

    /// A job more.
    async fn explained(&self, job: NewJob) -> Explanation {
        let id = self.queue.enqueue(job).await.unwrap().id;
        self.queue.explain(id).await.unwrap().unwrap()
    }

    async fn enqueue(&self, count: usize, job: impl Fn() -> NewJob) {
        self.queue.enqueue_all((0..count).map(|_| job())).await.unwrap();
    }

    /// Jobs of the kind `k` start, on a worker that adds these keys.
    async fn start(&self, count: u32, keys: &[&str]) -> Vec<Lease> {
        self.start_of("k", count, keys).await
    }

    async fn start_of(&self, name: &str, count: u32, keys: &[&str]) -> Vec<Lease> {
        let limits = LimitKeys::parse(keys).unwrap();
        let request = ClaimRequest {
            token: ClaimToken::random(),
            worker: WorkerId::new("w").unwrap(),
            queues: vec![QueueName::default()],
            kinds: vec![KindSlots { limits, ..KindSlots::new(kind(name), count) }],
            max: count,
            round_jobs: 0,
            lease: SECOND * 100_000,
        };
        let leases = self.store.claim(&request).await.unwrap().leases;
        assert_eq!(leases.len(), count as usize);
        leases
    }

    async fn complete(&self, leases: Vec<Lease>) {
        let settlement = |lease: Lease| Settlement {
            id: lease.spec.id,
            token: lease.token,
            outcome: Outcome::Completed { result: None },
            elapsed: SECOND,
        };
        let settlements = leases.into_iter().map(settlement).collect();
        self.store.settle(&SettleRequest { settlements, claim: None }).await.unwrap();
    }

    /// A worker with a slot that has started a job a second for three seconds, and is busy.
    async fn busy(&self) {
        self.enqueue(4, || job("k")).await;
        for _ in 0..3 {
            let leases = self.start(1, &[]).await;
            self.clock.advance(SECOND);
            self.complete(leases).await;
        }
        self.start(1, &[]).await;
    }
}

fn secs(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

fn position(explanation: &Explanation) -> Position {
    explanation.position.clone().expect("it is ready")
}

#[tokio::test]
async fn an_estimate_does_not_count_the_time_before_the_first_start() {
    let scene = Scene::with(&[worker("w", 1, &[])]).await;
    scene.clock.advance(SECOND * 20);
    scene.busy().await;
    scene.enqueue(9, || job("k")).await;
    assert_eq!(scene.explained(job("k")).await.estimate, secs(10));
}

#[tokio::test]
async fn as_long_as_nothing_has_ended_nobody_knows_when_a_slot_gets_free() {
    let scene = Scene::with(&[worker("w", 2, &[])]).await;
    scene.enqueue(1, || job("k")).await;
    scene.start(1, &[]).await;
    scene.clock.advance(SECOND);
    assert_eq!(scene.explained(job("k")).await.estimate, secs(0), "there is a slot for it");
    scene.start(1, &[]).await;
    assert_eq!(scene.explained(job("k")).await.estimate, None);
}

#[tokio::test]
async fn all_jobs_of_more_urgent_lanes_come_before_it_and_as_many_of_other_lanes_as_of_its_own() {
    let scene = Scene::with(&[worker("w", 1, &[])]).await;
    scene.busy().await;
    let of = |tenant: &'static str| move || job("k").limit(format!("tenant:{tenant}"));
    scene.enqueue(30, || job("k").priority(0)).await;
    scene.enqueue(9, of("a")).await;
    scene.enqueue(2, of("own")).await;
    scene.enqueue(1, of("b")).await;
    scene.enqueue(9, of("c")).await;
    scene.enqueue(70, || job("k").priority(9)).await;
    let explanation = scene.explained(of("own")()).await;
    // The third of its lane; of "a", which comes first, as many, and of "c" one less.
    assert_eq!(explanation.estimate, secs(30 + 2 + 3 + 1 + 2 + 1));
    let Position { jobs_ahead, urgent_lanes, urgent_jobs, other_lanes, .. } =
        position(&explanation);
    assert_eq!((jobs_ahead, urgent_lanes, urgent_jobs, other_lanes), (2, 1, 30, 3));
    let Position { other_lanes_first, held_up_lanes, more_lanes, .. } = position(&explanation);
    assert_eq!((other_lanes_first, held_up_lanes, more_lanes), (1, 0, false));
}

/// A lane gives as many jobs a turn as its heaviest key weighs: the estimate has to agree with what then happens.
#[tokio::test]
async fn a_heavy_lane_gives_so_many_jobs_a_turn() {
    for (other_weight, own_weight) in [(3, 1), (1, 3), (5, 5), (1, 1)] {
        let scene = Scene::with(&[worker("w", 1, &[])]).await;
        scene.busy().await;
        for (target, weight) in [("tenant:*", own_weight), ("tenant:other", other_weight)] {
            let settings = LimitSettings { weight: Some(weight), ..LimitSettings::default() };
            scene.limit(target, settings).await;
        }
        let of = |tenant: &'static str| {
            move || job("k").limit(format!("tenant:{tenant}")).limit("provider:p")
        };
        scene.enqueue(400, of("other")).await;
        scene.enqueue(59, of("own")).await;
        let explanation = scene.explained(of("own")()).await;
        let expected = 60 + (59 / own_weight + 1) * other_weight;
        assert_eq!(explanation.estimate, secs(expected.into()), "{other_weight}, {own_weight}");
        let mut started = 0;
        loop {
            let leases = scene.start(12, &[]).await;
            started += leases.len();
            if leases.iter().any(|lease| lease.spec.id == explanation.id) {
                break;
            }
            scene.complete(leases).await;
        }
        let ratio = started as f64 / f64::from(expected);
        assert!((0.8..1.2).contains(&ratio), "{started} had started, {expected} were expected");
    }
}

/// Of a heavy lane no more jobs come before a light one than may run at once, if there are slots beside these.
#[tokio::test]
async fn a_heavy_lane_gives_no_more_than_its_key_has_places() {
    let scene = Scene::with(&[worker("w", 4, &[])]).await;
    let of = |tenant: &'static str| move || job("k").limit(format!("tenant:{tenant}"));
    let weight = Some(100);
    let heavy = LimitSettings { concurrency: Some(3), weight, ..LimitSettings::default() };
    scene.limit("tenant:heavy", heavy).await;
    scene.enqueue(400, of("heavy")).await;
    scene.enqueue(400, of("other")).await;
    // Two jobs end each second, and two start.
    let mut running = scene.start(4, &[]).await;
    let mut started = Vec::new();
    for _ in 0..20 {
        scene.clock.advance(SECOND);
        let rest = running.split_off(2);
        scene.complete(std::mem::replace(&mut running, rest)).await;
        running.extend(scene.start(2, &[]).await);
    }
    let explanation = scene.explained(of("light")()).await;
    while !started.contains(&explanation.id) {
        let rest = running.split_off(2);
        scene.complete(std::mem::replace(&mut running, rest)).await;
        running.extend(scene.start(2, &[]).await);
        started.extend(running[2..].iter().map(|lease| lease.spec.id));
    }
    let told = explanation.estimate.unwrap().as_secs_f64() * 2.0;
    let (most, least) = (started.len() as f64 + 3.0, started.len() as f64 / 2.0);
    assert!((least..most).contains(&told), "{told} were to start, and {} did", started.len());
}

#[tokio::test]
async fn a_lane_that_cannot_start_is_before_nobody() {
    let scene = Scene::with(&[worker("w", 3, &[])]).await;
    scene.busy().await;
    scene.concurrency("tenant:full", 1).await;
    scene.rate("pool:used", "1/1h").await;
    let (full, used) = (|| job("k").limit("tenant:full"), || job("k").limit("pool:used"));
    scene.enqueue(1, full).await;
    scene.enqueue(1, used).await;
    scene.start(2, &[]).await;
    scene.clock.advance(SECOND);
    for priority in [1, 5] {
        scene.enqueue(20, || full().priority(priority)).await;
        scene.enqueue(20, || used().priority(priority)).await;
        scene.enqueue(20, || job("nobody").priority(priority)).await;
    }
    scene.enqueue(1, || job("k")).await;
    let explanation = scene.explained(job("k")).await;
    let interval = SECOND * 4 / 5;
    assert_eq!(explanation.estimate, Some(interval * 2));
    assert_eq!((position(&explanation).urgent_lanes, position(&explanation).held_up_lanes), (3, 6));
}

#[tokio::test]
async fn a_rate_is_waited_for_by_those_alone_that_could_start_if_it_were_not_for_it() {
    let scene = Scene::with(&[worker("w", 9, &[])]).await;
    scene.rate("pool:r", "1/10s").await;
    scene.concurrency("tenant:full", 1).await;
    let of_rate = |name: &str| job(name).limit("pool:r");
    scene.enqueue(1, || of_rate("k").limit("tenant:full")).await;
    scene.start(1, &[]).await;
    scene.enqueue(50, || of_rate("nobody").priority(1)).await;
    scene.enqueue(50, || of_rate("k").limit("tenant:full").priority(1)).await;
    scene.enqueue(3, || of_rate("k").priority(1)).await;
    scene.enqueue(2, || of_rate("k")).await;
    let explanation = scene.explained(of_rate("k")).await;
    assert_eq!(explanation.estimate, secs(10 * (1 + 3 + 2)));
    // What waits for the rate as it does is not passed over.
    assert_eq!((position(&explanation).urgent_lanes, position(&explanation).held_up_lanes), (3, 2));
    // Of one that is not due yet all of that is before it, too, and it comes last.
    let delayed = scene.explained(of_rate("k").delay(SECOND)).await;
    assert_eq!(delayed.estimate, secs(10 * (1 + 3 + 3)));
    let delayed = scene.explained(of_rate("k").delay(SECOND * 1000)).await;
    assert_eq!((delayed.estimate, delayed.position), (secs(1000), None));
}

#[tokio::test]
async fn a_job_that_needs_a_rate_and_a_slot_starts_when_it_has_both() {
    let scene = Scene::with(&[worker("w", 1, &["pool:r"])]).await;
    scene.rate("pool:r", "2/1s").await;
    scene.busy().await;
    scene.enqueue(8, || job("k")).await;
    // A slot gets free each second, whether the rate is used up or not.
    assert_eq!(scene.explained(job("k")).await.estimate, secs(9));
    scene.rate("pool:r", "1/10s").await;
    assert_eq!(scene.explained(job("k")).await.estimate, secs(90));
    let wide = Scene::with(&[worker("w", 99, &["pool:r"])]).await;
    wide.rate("pool:r", "1/10s").await;
    wide.enqueue(9, || job("k")).await;
    // Nine start before it, the first at once.
    assert_eq!(wide.explained(job("k")).await.estimate, secs(90));
}

#[tokio::test]
async fn slots_of_workers_whose_keys_have_no_room_do_not_count() {
    let scene = Scene::with(&[worker("a", 16, &["provider:p"]), worker("b", 1, &[])]).await;
    scene.concurrency("provider:p", 1).await;
    scene.enqueue(3, || job("k")).await;
    scene.start(1, &["provider:p"]).await;
    assert_eq!(scene.explained(job("k")).await.estimate, None, "b has a slot for one of three");
    scene.start(1, &[]).await;
    let explanation = scene.explained(job("k")).await;
    let [Blocker::Limit { status, blocked, of_worker: true, alternative: true }] =
        explanation.blockers.as_slice()
    else {
        panic!("{explanation:?}");
    };
    assert_eq!((status.key.as_str(), *blocked), ("provider:p", Blocked::Full { allowed: 1 }));
    assert_eq!(explanation.estimate, None);
    // Other jobs that b runs take its slots as well.
    let also = WorkerKind { kind: kind("other"), concurrency: 2, limits: LimitKeys::NONE };
    let mut b = worker("b", 3, &[]);
    b.kinds.push(also);
    scene.store.announce(&b, SECOND * 100_000).await.unwrap();
    assert_eq!(scene.explained(job("k").priority(0)).await.estimate, secs(0));
    scene.enqueue(2, || job("other")).await;
    scene.start_of("other", 2, &[]).await;
    assert_eq!(scene.explained(job("k").priority(0)).await.blockers, explanation.blockers);
}

#[tokio::test]
async fn how_often_other_kinds_start_says_nothing_about_a_kind_without_a_slot() {
    let mut info = worker("w", 9, &[]);
    info.kinds[0].concurrency = 1;
    info.kinds.push(WorkerKind { kind: kind("other"), concurrency: 9, limits: LimitKeys::NONE });
    let scene = Scene::with(&[info]).await;
    scene.busy().await;
    assert_eq!(scene.explained(job("k")).await.estimate, secs(1), "all starts are of its kind");
    scene.enqueue(20, || job("other")).await;
    let leases = scene.start_of("other", 5, &[]).await;
    scene.complete(leases).await;
    assert_eq!(scene.explained(job("k")).await.estimate, None);
}

#[tokio::test]
async fn a_job_that_expires_before_it_can_start_is_told_to_expire() {
    let scene = Scene::with(&[worker("w", 1, &[])]).await;
    scene.busy().await;
    let now = scene.queue.explain(scene.queue.enqueue(job("k")).await.unwrap().id);
    let now = now.await.unwrap().unwrap().now;
    let at = |seconds: u64| now.after(SECOND * u32::try_from(seconds).unwrap());
    let expiring = |seconds| job("k").expires_at(at(seconds));
    // It is the second, and one starts each second.
    let explanation = scene.explained(expiring(3)).await;
    assert_eq!((explanation.expires_at, explanation.estimate), (None, secs(2)));
    let explanation = scene.explained(expiring(3)).await;
    assert_eq!((explanation.expires_at, explanation.estimate), (Some(at(3)), None));
    let explanation = scene.explained(expiring(10).delay(SECOND * 20)).await;
    assert_eq!((explanation.expires_at, explanation.estimate), (Some(at(10)), None));
    let explanation = scene.explained(expiring(0)).await;
    assert_eq!((explanation.expires_at, explanation.estimate), (Some(now), None));
    // Also if nobody knows when it could start.
    scene.queue.pause(&QueueName::default()).await.unwrap();
    assert_eq!(scene.explained(expiring(0)).await.expires_at, Some(now));
    assert_eq!(scene.explained(expiring(1)).await.expires_at, None);
}

#[tokio::test]
async fn queues_that_its_workers_serve_first_are_told_and_leave_no_estimate() {
    let queues = ["critical", "default"].map(queue_name).to_vec();
    let info = WorkerInfo { queues, ranks: vec![0, 2], ..worker("w", 1, &[]) };
    let scene = Scene::with(std::slice::from_ref(&info)).await;
    scene.busy().await;
    let first = async |job| {
        let explanation = scene.explained(job).await;
        let first = position(&explanation).queues_first.into_iter();
        (
            first.map(|(queue, jobs)| (queue.to_string(), jobs)).collect::<Vec<_>>(),
            explanation.estimate,
        )
    };
    assert_eq!(first(job("k")).await, (vec![], secs(1)));
    scene.enqueue(5, || job("nobody").queue("critical")).await;
    assert_eq!(first(job("k")).await, (vec![], secs(2)));
    scene.enqueue(80, || job("k").queue("critical")).await;
    assert_eq!(first(job("k")).await, (vec![("critical".to_owned(), 80)], None));
    assert_eq!(first(job("k").queue("critical")).await.0, [], "that is first itself");
    // Queues that take turns, and those of a worker that does not tell.
    for ranks in [vec![0, 0], vec![]] {
        scene.store.announce(&WorkerInfo { ranks, ..info.clone() }, SECOND * 99).await.unwrap();
        assert_eq!(first(job("k").priority(0)).await.0, []);
    }
    // One worker is enough that does not serve it first.
    scene.store.announce(&info, SECOND * 99).await.unwrap();
    assert_eq!(first(job("k").priority(0)).await.0.len(), 1);
    scene.store.announce(&worker("other", 1, &[]), SECOND * 99).await.unwrap();
    assert_eq!(first(job("k").priority(0)).await.0, []);
}

/// Workers make jobs ready that are due. Where none lives, it is not their time that they wait for.
#[tokio::test]
async fn a_job_that_is_due_does_not_wait_for_its_time() {
    let scene = Scene::new();
    let id = scene.queue.enqueue(job("k").delay(SECOND)).await.unwrap().id;
    scene.queue.enqueue(job("k").delay(SECOND * 99)).await.unwrap();
    let blockers = async || {
        let blockers = scene.queue.explain(id).await.unwrap().unwrap().blockers;
        blockers.iter().map(Blocker::reason).collect::<Vec<_>>()
    };
    let backlog = async |expected: &[(Reason, u64)]| {
        let backlog = scene.queue.backlog(&QueueName::default()).await.unwrap();
        assert_eq!(backlog.reasons, BTreeMap::from_iter(expected.iter().copied()));
    };
    assert_eq!(blockers().await, [Reason::Scheduled, Reason::Unroutable]);
    backlog(&[(Reason::Scheduled, 2)]).await;
    scene.clock.advance(SECOND * 2);
    assert_eq!(blockers().await, [Reason::Unroutable]);
    backlog(&[(Reason::Scheduled, 1), (Reason::Unroutable, 1)]).await;
    scene.queue.pause(&QueueName::default()).await.unwrap();
    assert_eq!(blockers().await, [Reason::Paused, Reason::Unroutable]);
    backlog(&[(Reason::Scheduled, 1), (Reason::Paused, 1)]).await;
    scene.queue.resume(&QueueName::default()).await.unwrap();
    scene.store.announce(&worker("w", 1, &[]), SECOND * 99).await.unwrap();
    assert_eq!(blockers().await, []);
}

/// A record and a place are two reads: the answer is about one moment nevertheless.
#[tokio::test]
async fn a_job_that_moves_while_it_is_explained_is_looked_at_again() {
    let scene = Scene::with(&[worker("w", 1, &[])]).await;
    let network = Faulty::new(scene.store.clone());
    let queue = Queue::new(network.clone());
    let id = scene.queue.enqueue(job("k").delay(SECOND)).await.unwrap().id;
    let explained = async |meanwhile: &mut (dyn Future<Output = ()> + Unpin)| {
        let gate = network.place_waits();
        let (explanation, ()) = tokio::join!(queue.explain(id), async {
            meanwhile.await;
            gate.open();
        });
        let explanation = explanation.unwrap().unwrap();
        (explanation.state, explanation.position.is_some())
    };
    scene.clock.advance(SECOND);
    let promote = async {
        scene.store.maintain(9).await.unwrap();
    };
    assert_eq!(explained(&mut Box::pin(promote)).await, (JobState::Ready, true));
    let start = async {
        scene.start(1, &[]).await;
    };
    assert_eq!(explained(&mut Box::pin(start)).await, (JobState::Running, false));
}
