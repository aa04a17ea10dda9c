//! Limits: by hand and by configuration, over several replicas, and what is not let in.

use std::path::Path;
use std::time::{Duration, Instant};

use queue::{Connect as _, JobId, JobState, LimitKey, LimitStatus, Queue};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Daemon, Gate, Redis, Store, ask, ask_plainly, executor, job, on_every_store, text, until,
    until_finished,
};

on_every_store!(
    a_limit_holds_over_replicas_and_follows_its_changes,
    a_provider_of_the_configuration_is_called_by_no_more_than_it_allows,
    a_hangup_writes_the_limits_of_the_file_again,
    limits_are_set_shown_and_removed,
    keys_travel_with_jobs,
    a_full_queue_lets_nothing_in,
    a_command_that_is_turned_away_closes_its_provider,
    what_keeps_a_job_is_explained,
);

const REPLICA: &str = "[worker]\nlease = \"60s\"\nconcurrency = 8\n";

/// What runs at a time, as the programs themselves see it.
struct Counted {
    folder: tempfile::TempDir,
    gate: Gate,
}

impl Counted {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("running")).unwrap();
        Self { folder, gate: Gate::new() }
    }

    /// An executor for the kind `counted` whose program notes how many there are when it has
    /// started and before it ends, and waits at the gate between.
    fn executor(&self) -> String {
        let (folder, gate) = (self.folder.path().display(), self.gate.script());
        let count = "ls running | wc -l >> counts";
        let script = format!(
            "cd {folder}; : > running/$WORKERD_JOB_ID; {count}; {gate}; {count}; \
             rm running/$WORKERD_JOB_ID"
        );
        executor("counted", &script)
    }

    fn counts(&self) -> Vec<u64> {
        let counts = std::fs::read_to_string(self.folder.path().join("counts"));
        counts.unwrap_or_default().lines().map(|line| line.trim().parse().unwrap()).collect()
    }
}

async fn enqueue(queue: &Queue, count: usize, keys: &[&str]) -> Vec<JobId> {
    let job = |_| keys.iter().fold(job("counted", &json!({})), |job, key| job.limit(key));
    let jobs: Vec<_> = (0..count).map(job).collect();
    let ids = jobs.iter().map(queue::NewJob::job_id).collect();
    queue.enqueue_all(jobs).await.unwrap();
    ids
}

async fn status(queue: &Queue, key: &str) -> LimitStatus {
    queue.limit_status(&[LimitKey::new(key).unwrap()]).await.unwrap().remove(0)
}

async fn until_running(queue: &Queue, key: &str, running: u64) -> LimitStatus {
    let what = format!("{running} jobs running with {key}");
    until(&what, async || Some(status(queue, key).await).filter(|s| s.running == running)).await
}

async fn a_limit_holds_over_replicas_and_follows_its_changes(store: Store) {
    let (counted, queue) = (Counted::new(), store.connect().await);
    assert_eq!(ask(&store, &["limit", "set", "gpu:one", "--concurrency", "2"]).code, 0);
    let config = REPLICA.to_owned() + &counted.executor();
    let _replicas = [Daemon::start(&store.url(), &config), Daemon::start(&store.url(), &config)];
    let jobs = enqueue(&queue, 20, &["gpu:one"]).await;
    until("two programs", async || (counted.counts().len() == 2).then_some(())).await;
    let full = until_running(&queue, "gpu:one", 2).await;
    assert_eq!((full.live, full.blocked), (20, vec![queue::Blocked::Full { allowed: 2 }]));

    let changed = Instant::now();
    assert_eq!(ask(&store, &["limit", "set", "gpu:one", "--concurrency", "3"]).code, 0);
    until_running(&queue, "gpu:one", 3).await;
    let took = changed.elapsed();
    // A second is promised; the rest is for a machine that does much else.
    assert!(took < Duration::from_secs(10), "{took:?}");
    until("three programs", async || (counted.counts().len() == 3).then_some(())).await;
    assert!(counted.counts().iter().all(|count| *count <= 3));

    // Nobody is killed for a limit, and nobody starts before there is room.
    assert_eq!(ask(&store, &["limit", "set", "gpu:one", "--concurrency", "1"]).code, 0);
    assert_eq!(status(&queue, "gpu:one").await.running, 3);
    counted.gate.open();
    for id in jobs {
        assert_eq!(until_finished(&queue, id).await.state, JobState::Completed);
    }
    let counts = counted.counts();
    assert_eq!(counts.len(), 40);
    // What started and ended after the three was alone.
    assert!(counts[6..].iter().all(|count| *count == 1), "{counts:?}");
    assert!(queue.audit().await.unwrap().is_empty());
}

async fn a_provider_of_the_configuration_is_called_by_no_more_than_it_allows(store: Store) {
    let (counted, queue) = (Counted::new(), store.connect().await);
    let limits = "provider = \"slow\"\n[limits.\"provider:slow\"]\nconcurrency = 2\n";
    let config = REPLICA.to_owned() + &counted.executor() + limits;
    let replicas = [Daemon::start(&store.url(), &config), Daemon::start(&store.url(), &config)];
    let jobs = enqueue(&queue, 12, &[]).await;
    until("two programs", async || (counted.counts().len() == 2).then_some(())).await;
    let metrics = until("the gauge", async || {
        let (_, metrics) = replicas[0].get("/metrics");
        metrics.contains("queue_limit_in_use{key=\"provider:slow\"} 2\n").then_some(metrics)
    });
    assert!(metrics.await.contains("queue_limit_max{key=\"provider:slow\"} 2\n"));

    counted.gate.open();
    for id in jobs {
        assert_eq!(until_finished(&queue, id).await.state, JobState::Completed);
    }
    let counts = counted.counts();
    assert!(counts.len() == 24 && counts.iter().all(|count| *count <= 2), "{counts:?}");
    until_running(&queue, "provider:slow", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_empty_gets_the_limits_of_the_file_before_a_job_starts() {
    let (counted, mut redis) = (Counted::new(), Redis::start());
    let limits = "provider = \"slow\"\n[limits.\"provider:slow\"]\nconcurrency = 1\n\
                  [queues.default]\nmax_live = 30\n";
    let config = REPLICA.to_owned() + &counted.executor() + limits;
    let url = redis.url();
    let replicas = [Daemon::start(&url, &config), Daemon::start(&url, &config)];
    for replica in &replicas {
        replica.wait_for_event("worker_started");
    }
    // What was read last counts.
    for replica in &replicas {
        replica.rewrite_config(&url, &config.replace("concurrency = 1", "concurrency = 2"));
        replica.signal(Signal::HUP);
        replica.wait_for_event("reloaded");
    }
    let queue = Queue::connect(&url).await.unwrap();
    let by_hand = queue::LimitSettings { weight: Some(2), ..Default::default() };
    queue.set_limit(&queue::LimitTarget::new("by:hand").unwrap(), &by_hand).await.unwrap();

    redis.restart_empty();
    let jobs = enqueue(&queue, 12, &[]).await;
    for replica in &replicas {
        assert!(text(&replica.wait_for_event("store_was_reset")["message"]).contains("limits"));
        let written = replica.wait_for_event("limits_written_again");
        assert!(text(&written["advice"]).contains("by hand"), "{written}");
    }
    until("two programs", async || (counted.counts().len() == 2).then_some(())).await;
    let set: Vec<String> =
        queue.limits().await.unwrap().iter().map(|(t, _)| t.to_string()).collect();
    assert_eq!(set, ["provider:slow", "queue:default"]);
    counted.gate.open();
    for id in jobs {
        assert_eq!(until_finished(&queue, id).await.state, JobState::Completed);
    }
    let counts = counted.counts();
    assert!(counts.len() == 24 && counts.iter().all(|count| *count <= 2), "{counts:?}");
    assert!(replicas.iter().all(|replica| replica.get("/readyz").0 == 200));
}

async fn a_hangup_writes_the_limits_of_the_file_again(store: Store) {
    let (gate, queue) = (Gate::new(), store.connect().await);
    let config = |concurrency: u32, limits: &str| {
        let worker = format!("concurrency = {concurrency}\nlease = \"{}s\"", 20 + concurrency);
        format!("[worker]\n{worker}\n{}{limits}", gate.executor())
    };
    let old = "[limits.\"a:old\"]\nconcurrency = 1\n[limits.\"a:*\"]\nweight = 1\n";
    let mut daemon = Daemon::start(&store.url(), &config(1, old));
    daemon.wait_for_event("worker_started");
    let set = async |key: &str| status(&queue, key).await.allowed;
    assert_eq!((set("a:old").await, set("a:new").await), (Some(1), None));
    assert_eq!(ask(&store, &["limit", "set", "by:hand", "--concurrency", "9"]).code, 0);

    let new = "[limits.\"a:old\"]\nconcurrency = 5\n[limits.\"a:new\"]\nconcurrency = 6\n";
    daemon.rewrite_config(&store.url(), &config(2, new));
    daemon.signal(Signal::HUP);
    let reloaded = daemon.wait_for_event("reloaded");
    assert_eq!((&reloaded["limits_changed"], &reloaded["concurrency"]), (&json!(2), &json!(2)));
    assert_eq!((set("a:old").await, set("a:new").await), (Some(5), Some(6)));
    assert_eq!(set("by:hand").await, Some(9));
    assert_eq!(daemon.wait_for_event("setting_not_reloaded")["setting"], "worker.lease");
    assert_eq!(daemon.wait_for_event("limit_not_named")["limit"], "a:*");

    daemon.rewrite_config(&store.url(), &config(2, "[limits.\"a:old\"]\nconcurrency = \"many\"\n"));
    daemon.signal(Signal::HUP);
    let failed = daemon.wait_for_event("reload_failed");
    assert!(text(&failed["error"]).contains("limits.\"a:old\".concurrency"), "{failed}");
    assert_eq!(set("a:old").await, Some(5));
    gate.open();
    let id = queue.enqueue(job("gate", &json!({}))).await.unwrap().id;
    assert_eq!(until_finished(&queue, id).await.state, JobState::Completed);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code(), Some(0));
}

async fn limits_are_set_shown_and_removed(store: Store) {
    let whole = "limit set provider:x --concurrency 8 --rate 100/s --burst 2 --weight 3 \
                 --adaptive-floor 2 --max-live 1000 --breaker failures=10,window=30s,cooldown=20s";
    let set = ask(&store, &whole.split_whitespace().collect::<Vec<_>>());
    assert_eq!((set.code, &set.json()["changed"]), (0, &json!(true)), "{set:?}");
    assert!(text(&set.json()["hints"][0]).contains("a burst of 10"), "{set:?}");
    let less = ask(&store, &["limit", "set", "provider:x", "--rate", "none", "--weight", "none"]);
    let settings = json!({
        "concurrency": 8, "adaptive": { "floor": 2 }, "max_live": 1000,
        "breaker": { "failures": 10, "window_ms": 30_000, "cooldown_ms": 20_000 },
    });
    assert_eq!((&less.json()["settings"], &less.json()["hints"]), (&settings, &json!([])));
    let again = ask(&store, &["limit", "set", "provider:x", "--max-live", "1000"]);
    assert_eq!(again.json()["changed"], false);
    let class = ["limit", "set", "provider:*", "--concurrency", "4"];
    assert_eq!(ask(&store, &class).code, 0);

    store.connect().await.enqueue(job("a", &json!({})).limit("provider:x")).await.unwrap();
    let listed = ask(&store, &["limit", "ls"]).json();
    let (key, of_class) = (&listed["limits"][0], &listed["limits"][1]);
    assert_eq!((&key["limit"], &key["settings"]), (&json!("provider:x"), &settings));
    assert_eq!((&key["running"], &key["live"], &key["allowed"]), (&json!(0), &json!(1), &json!(8)));
    assert_eq!((&of_class["limit"], &of_class["live"]), (&json!("provider:*"), &Value::Null));
    let shown = ask(&store, &["limit", "show", "provider:y", "queue:default"]).documents();
    assert_eq!((&shown[0]["settings_of"], &shown[0]["allowed"]), (&json!("provider:*"), &json!(4)));
    assert_eq!((&shown[1]["live"], &shown[1]["running"]), (&json!(1), &Value::Null));
    assert_eq!((&shown[0]["drift"], &shown[1]["drift"]), (&json!(0), &json!(0)));
    let plainly = ask_plainly(&store, &["limit", "show", "provider:y", "provider:*"]).out;
    assert!(plainly.contains("allows   concurrency 4 (as all of provider:*)\n"), "{plainly}");
    let own = ask_plainly(&store, &["limit", "set", "provider:y", "--rate", "5/s"]).out;
    assert!(own.contains("hint: ") && own.contains("(concurrency 4)"), "{own}");
    let plainly = ask_plainly(&store, &["limit", "ls"]).out;
    assert!(plainly.contains("0 of 8   1 of 1000"), "{plainly}");

    let reset = ask(&store, &["limit", "reset", "provider:y"]);
    let document = json!({ "limit": "provider:y", "reset": false, "blocked": [] });
    assert_eq!((reset.code, reset.json()), (0, document));
    assert_eq!(ask(&store, &["limit", "reset", "provider:*"]).code, 2, "of keys only");
    let removed = ask(&store, &["limit", "rm", "provider:y"]);
    assert_eq!((removed.code, &removed.json()["settings_of"]), (0, &json!("provider:*")));
    let again = ask(&store, &["limit", "rm", "provider:y"]);
    assert_eq!((again.code, &again.error()["error"]["code"]), (4, &json!("not_found")));
    for key in ["a:b", "c:d"] {
        assert_eq!(ask(&store, &["limit", "set", key, "--weight", "2"]).code, 0);
    }
    let several = ask(&store, &["limit", "rm", "a:b", "e:f", "c:d"]);
    assert_eq!((several.code, several.documents().len()), (4, 2), "{several:?}");
    assert_eq!(several.error()["error"]["limit"], "e:f");
    for wrong in [
        &["limit", "rm"][..],
        &["limit", "set", "provider", "--weight", "1"],
        &["limit", "set", "a:b"],
        &["limit", "set", "a:b", "--weight", "none"],
        &["limit", "set", "a:b", "--adaptive-floor", "2"],
        &["limit", "set", "queue:default", "--rate", "5/s"],
        &["limit", "set", "queue:Default", "--max-live", "5"],
    ] {
        let said = ask(&store, wrong);
        assert_eq!((said.code, &said.error()["error"]["code"]), (2, &json!("usage")), "{wrong:?}");
    }
    // A negative number is a wrong value, not an option that nobody knows.
    for (setting, least) in [("--concurrency", "from 1 to"), ("--max-live", "from 1 on")] {
        let said = ask_plainly(&store, &["limit", "set", "a:b", setting, "-1"]);
        assert!(said.code == 2 && said.err.contains(least), "{said:?}");
    }
    for (command, what) in [
        (&["limit", "set", "a:b", "--rate", "-5/s"][..], "'--rate <RATE>'"),
        (&["enqueue", "a", "--delay", "-5s"], "\"-5s\" is not a duration"),
        (&["job", "wait", ID, "--timeout", "-1s"], "\"-1s\" is not a duration"),
    ] {
        let said = ask_plainly(&store, command);
        let is_about_value = said.err.contains("invalid value '-") && said.err.contains(what);
        assert!(said.code == 2 && is_about_value, "{said:?}");
    }
}

const ID: &str = "0198c2f0-7b1c-7e3a-9d52-3f4e5a6b7c8d";

async fn keys_travel_with_jobs(store: Store) {
    let said = ask(&store, &["enqueue", "a", "--limit", "tenant:b", "--limit", "gpu:1"]);
    let shown = ask(&store, &["job", "show", text(&said.json()["id"])]).json();
    assert_eq!(shown["limits"], json!(["gpu:1", "tenant:b"]));
    let plainly = ask_plainly(&store, &["job", "show", text(&said.json()["id"])]).out;
    assert!(plainly.contains("limits     gpu:1, tenant:b\n"), "{plainly}");
    assert_eq!(ask(&store, &["enqueue", "a", "--limit", "tenant"]).code, 2);
    let five = ["a:1", "a:2", "a:3", "a:4", "a:5"].map(|key| ["--limit", key]);
    let said = ask(&store, &[&["enqueue", "a"], five.as_flattened()].concat());
    assert_eq!((said.code, &said.error()["error"]["code"]), (2, &json!("usage")));
}

async fn a_full_queue_lets_nothing_in(store: Store) {
    assert_eq!(ask(&store, &["limit", "set", "queue:default", "--max-live", "3"]).code, 0);
    let keyed = ["enqueue", "a", "--idempotency-key", "key"];
    assert_eq!(ask(&store, &keyed).code, 0);
    assert_eq!(ask(&store, &["enqueue", "a"]).code, 0);

    let folder = tempfile::tempdir().unwrap();
    let said = batch(&store, folder.path(), &["default", "default", "other", "default"]);
    assert_eq!(said.code, 3, "{said:?}");
    let told = said.documents();
    assert_eq!((&told[0]["state"], &told[2]["state"]), (&json!("ready"), &json!("ready")));
    assert_eq!(told[1]["refused"]["limit"], "queue:default");
    let error = &said.error()["error"];
    assert_eq!((&error["code"], &error["created"]), (&json!("busy"), &json!(2)));
    assert_eq!((&error["written_to_line"], &error["refused"]), (&json!(3), &json!([2])));

    let refused = ask(&store, &["enqueue", "a"]);
    let error = &refused.error()["error"];
    assert_eq!((refused.code, &error["code"]), (3, &json!("busy")), "{refused:?}");
    assert_eq!(error["limit"], "queue:default");
    assert!(error["retry_after_sec"].as_u64().is_some_and(|seconds| seconds >= 1), "{error}");
    // What is there already is not refused.
    assert_eq!(ask(&store, &keyed).json()["duplicate"], true);
    let shown = ask_plainly(&store, &["limit", "show", "queue:default"]).out;
    assert!(shown.contains("live     3 of 3\n"), "{shown}");

    assert_eq!(ask(&store, &["limit", "rm", "queue:default"]).code, 0);
    assert_eq!(ask(&store, &["enqueue", "a"]).code, 0);
}

async fn a_command_that_is_turned_away_closes_its_provider(store: Store) {
    let queue = store.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let recovered = folder.path().join("recovered");
    let script = format!(
        "test -e '{}' && exit 0; echo '{{\"retry_after_sec\": 3600}}' 1<> $WORKERD_EVENTS; exit 75",
        recovered.display()
    );
    let executor = executor("calls", &script) + "throttled = { exit_code = 75 }\n";
    let config = executor + "provider = \"x\"\n[limits.\"provider:x\"]\nconcurrency = 2\n";
    let _daemon = Daemon::start(&store.url(), &config);
    let first = queue.enqueue(job("calls", &json!({}))).await.unwrap().id;
    let closed = until("the provider closed", async || {
        let blocked = status(&queue, "provider:x").await.blocked;
        blocked.iter().find(|why| matches!(why, queue::Blocked::Closed { .. })).copied()
    })
    .await;
    let record = queue.get(first).await.unwrap().unwrap();
    assert_eq!((record.state, record.failures, record.snoozes), (JobState::Scheduled, 0, 1));
    assert_eq!(closed.over_at(), Some(record.due_at));
    let second = queue.enqueue(job("calls", &json!({}))).await.unwrap().id.to_string();
    let explained = ask(&store, &["job", "explain", &second]).json();
    assert_eq!(explained["blockers"][0]["limit"], "provider:x", "{explained}");

    // Closed keys are listed as long as a live worker adds them, with settings or without.
    assert_eq!(ask(&store, &["limit", "rm", "provider:x"]).code, 0);
    let listed = until("the worker known", async || {
        let listed = ask(&store, &["limit", "ls"]).json()["limits"].clone();
        (listed != json!([])).then_some(listed)
    })
    .await;
    assert_eq!((&listed[0]["limit"], &listed[0]["settings"]), (&json!("provider:x"), &Value::Null));
    assert_eq!(listed[0]["blocked"][0]["reason"], "throttled");
    let plainly = ask_plainly(&store, &["limit", "ls"]).out;
    assert!(plainly.contains("throttled until "), "{plainly}");

    std::fs::write(recovered, "").unwrap();
    let reset = ask(&store, &["limit", "reset", "provider:x"]).json();
    assert_eq!((&reset["reset"], &reset["blocked"]), (&json!(true), &json!([])));
    let record = until_finished(&queue, second.parse().unwrap()).await;
    assert_eq!((record.state, record.snoozes), (JobState::Completed, 0));
    assert_eq!(ask(&store, &["limit", "ls"]).json()["limits"], json!([]));
    let plainly = ask_plainly(&store, &["limit", "reset", "provider:x"]).out;
    assert_eq!(plainly, "provider:x had nothing to end\n");
}

/// Enqueues a job to each of these queues.
fn batch(store: &Store, folder: &Path, queues: &[&str]) -> crate::support::Said {
    let path = folder.join("batch");
    let line = |queue: &&str| format!("{{\"kind\":\"a\",\"payload\":1,\"queue\":{queue:?}}}\n");
    std::fs::write(&path, queues.iter().map(line).collect::<String>()).unwrap();
    ask(store, &["enqueue", "--batch", path.to_str().unwrap()])
}

async fn what_keeps_a_job_is_explained(store: Store) {
    let (gate, queue) = (Gate::new(), store.connect().await);
    let limits = "provider = \"x\"\n[limits.\"provider:x\"]\nconcurrency = 1\n";
    let config = gate.executor() + limits;
    let explain = |id: &str| ask(&store, &["job", "explain", id]);
    let id = queue.enqueue(job("gate", &json!({}))).await.unwrap().id.to_string();
    let alone = explain(&id).json();
    assert_eq!(
        (&alone["state"], &alone["blockers"][0]["reason"]),
        (&json!("ready"), &json!("unroutable"))
    );

    let daemon = Daemon::start(&store.url(), &config);
    until_running(&queue, "provider:x", 1).await;
    let second = queue.enqueue(job("gate", &json!({}))).await.unwrap().id.to_string();
    let held = until("the worker known", async || {
        let blockers = explain(&second).json()["blockers"].clone();
        (blockers[0]["reason"] == "limit").then_some(blockers)
    })
    .await;
    let (limit, holders) = (&held[0]["limit"], &held[0]["holders"]);
    assert_eq!(
        (limit, holders, &held[0]["of_worker"]),
        (&json!("provider:x"), &json!([id]), &json!(true))
    );
    let plainly = ask_plainly(&store, &["job", "explain", &second]).out;
    assert!(plainly.contains("provider:x (which its worker adds): the limit of 1"), "{plainly}");
    assert!(plainly.contains(&format!("held by {id}")), "{plainly}");

    let backlog = ask(&store, &["queue", "explain", "default"]).json();
    assert_eq!(backlog["reasons"], json!({ "limit": 1 }));
    until("the gauge", async || {
        let line = "queue_blocked_jobs{queue=\"default\",reason=\"limit\"} 1\n";
        daemon.get("/metrics").1.contains(line).then_some(())
    })
    .await;
    let workers = ask(&store, &["worker", "ls"]).json();
    let kinds = &workers["workers"][0]["kinds"];
    assert_eq!((&kinds[0]["kind"], &kinds[0]["limits"]), (&json!("gate"), &json!(["provider:x"])));
    let plainly = ask_plainly(&store, &["worker", "ls"]).out;
    assert!(plainly.contains(" of 16") && plainly.contains("default  gate"), "{plainly}");

    gate.open();
    until_finished(&queue, second.parse().unwrap()).await;
    assert_eq!(explain(&second).json()["blockers"], json!([]));
    assert_eq!(explain(&JobId::new().to_string()).code, 4);
}

#[test]
fn what_the_configuration_may_not_have_meant_is_told_by_the_check() {
    let store = Store::sqlite();
    assert_eq!(ask(&store, &["limit", "set", "gpu:*", "--concurrency", "1"]).code, 0);
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "{}provider = \"opanai\"\nlimits = [\"gpu:a\"]\n\
         [limits.\"provider:openai\"]\nrate = \"100/s\"\nburst = 1\n",
        executor("a", "true")
    );
    let path = crate::support::write_config(folder.path(), &config);
    let said = ask(&store, &["check", "-c", path.to_str().unwrap()]).json();
    let findings = said["findings"].as_array().unwrap();
    let of_limits: Vec<&str> = findings
        .iter()
        .filter(|finding| finding["name"] == "limits" && finding["verdict"] == "warning")
        .map(|finding| text(&finding["found"]))
        .collect();
    assert_eq!(of_limits.len(), 2, "{findings:?}");
    assert!(of_limits[0].starts_with("provider:openai allows rate 100/1s"), "{of_limits:?}");
    assert_eq!(of_limits[1], "a needs provider:opanai, which nothing limits");
}

#[test]
fn being_turned_away_without_a_key_to_close_is_told_by_the_check_and_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let throttled = "throttled = { exit_code = 75 }\n";
    let config = |kind: &str, keys: &str| executor(kind, "true") + throttled + keys;
    let path = |config: &str| crate::support::write_config(folder.path(), config);
    let told = |config: &str| {
        let said = ask(&Store::sqlite(), &["check", "-c", path(config).to_str().unwrap()]).json();
        let findings = said["findings"].as_array().unwrap().clone();
        findings.into_iter().filter(|finding| finding["name"] == "executors").collect::<Vec<_>>()
    };
    for keys in ["provider = \"x\"\n", "limits = [\"gpu:a\"]\n"] {
        assert_eq!(told(&config("a", keys)), Vec::<Value>::new());
    }
    let nothing = config("a", "");
    let told = told(&nothing);
    assert!(text(&told[0]["found"]).starts_with("a has throttled"), "{told:?}");
    assert!(text(&told[0]["remedy"]).contains("add provider"), "{told:?}");
    let store = Store::sqlite();
    let daemon = Daemon::start(&store.url(), &nothing);
    assert_eq!(daemon.wait_for_event("throttled_closes_nothing")["kind"], "a");
}
