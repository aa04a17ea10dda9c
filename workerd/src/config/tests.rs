//! Files that are right, and a table of files that are wrong.

use super::layers::Setting;
use super::view::View;
use super::*;
use queue::{Adaptive, Breaker, LimitSettings, Rate};

fn read_with(text: &str, layers: &Layers) -> Result<Config, Problems> {
    resolve::config(&raw::Source::new("w.toml", text), Path::new("/"), layers)
}

fn read(text: &str) -> Result<Config, Problems> {
    read_with(text, &Layers::default())
}

const WHOLE: &str = r#"
namespace = "shop"

[store]
url = "redis://:hunter2@127.0.0.1:6379"
durability = "fsync"

[worker]
concurrency = 64
lease = "20s"
shutdown_grace = "1m 30s"
queues = ["critical", { name = "default", weight = 3 }, { name = "bulk", weight = 1 }]

[queues.bulk]
max_live = 1000

[limits."provider:openai"]
concurrency = 8
rate = "500/1m"
burst = 50
breaker = { failures = 10, window = "30s", cooldown = "20s" }
adaptive = { floor = 2 }
max_live = 5000

[limits."tenant:*"]
concurrency = 2
weight = 3

[limits."queue:*"]
max_live = 100000

[executors."report.render"]
type = "command"
argv = ["sh", "render.sh", "--id={payload.id}", "{{}}"]
provider = "openai"
limits = ["gpu:a100", "gpu:a100"]
concurrency = 4
timeout = "10m"
kill_grace = "0s"
env = ["DISPLAY"]
working_dir = "/tmp"
output_max_bytes = 1000
stdout = "discard"
throttled = { exit_code = 75, delay = "90s" }

[http]
listen = "127.0.0.1:0"

[log]
format = "json"
level = "info,queue_core=debug"
"#;

#[test]
fn a_file_with_everything_is_read() {
    let config = read(WHOLE).unwrap();
    assert_eq!(config.store.namespace.as_str(), "shop");
    assert_eq!(config.store.durability, Some(Durability::Fsync));
    assert_eq!(config.worker.concurrency, 64);
    assert_eq!(config.worker.lease, Duration::from_secs(20));
    assert_eq!(config.worker.shutdown_grace, Duration::from_secs(90));
    let queues = config.worker.queues.0.iter().map(|(name, weight)| (name.as_str(), *weight));
    let expected = [("critical", None), ("default", Some(3)), ("bulk", Some(1))];
    assert_eq!(queues.collect::<Vec<_>>(), expected);
    let command = &config.executors[&Kind::new("report.render").unwrap()];
    assert!(command.program.ends_with("sh") && command.program.is_absolute());
    assert_eq!(command.arguments.len(), 3);
    assert_eq!(command.kill_grace, Duration::ZERO);
    let throttled = command.throttled.unwrap();
    assert_eq!((throttled.exit_code, throttled.delay), (75, Duration::from_secs(90)));
    let keys: Vec<&str> = command.limits.iter().map(queue::LimitKey::as_str).collect();
    assert_eq!(keys, ["gpu:a100", "provider:openai"]);
    assert_eq!(config.listen, Some("127.0.0.1:0".parse().unwrap()));
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn limits_are_read_with_all_that_they_allow() {
    let limits = read(WHOLE).unwrap().limits;
    let of = |target: &str| limits[&queue::LimitTarget::new(target).unwrap()].clone();
    assert_eq!(limits.len(), 4);
    let openai = LimitSettings {
        concurrency: Some(8),
        rate: Some(Rate { count: 500, period: Duration::from_secs(60), burst: 50 }),
        breaker: Some(Breaker {
            failures: 10,
            window: Duration::from_secs(30),
            cooldown: Duration::from_secs(20),
        }),
        adaptive: Some(Adaptive { floor: 2 }),
        weight: None,
        max_live: Some(5000),
    };
    assert_eq!(of("provider:openai"), openai);
    assert_eq!((of("tenant:*").concurrency, of("tenant:*").weight), (Some(2), Some(3)));
    let live = |most| LimitSettings { max_live: Some(most), ..LimitSettings::default() };
    assert_eq!((of("queue:bulk"), of("queue:*")), (live(1000), live(100_000)));
}

#[test]
fn a_rate_without_a_burst_has_one_that_late_workers_need() {
    let limits = read("[limits.\"a:b\"]\nrate = \"100/s\"").unwrap().limits;
    assert_eq!(limits.into_values().next().unwrap().rate.unwrap().burst, 10);
}

#[test]
fn the_shown_configuration_reads_back_as_the_same_and_hides_the_password() {
    for text in [WHOLE, ""] {
        let view = toml::to_string(&View::of(&read(text).unwrap())).unwrap();
        assert!(!view.contains("hunter2"), "{view}");
        let again = toml::to_string(&View::of(&read(&view).unwrap())).unwrap();
        assert_eq!(view, again);
    }
}

#[test]
fn every_durability_has_its_name() {
    for durability in [Durability::Memory, Durability::Fsync, Durability::Replicas(2)] {
        let text = format!("[store]\ndurability = \"{durability}\"");
        let config = read(&text).unwrap();
        assert_eq!(config.store.durability, Some(durability));
        let view = toml::to_string(&View::of(&config)).unwrap();
        assert!(view.contains(&format!("durability = \"{durability}\"")), "{view}");
    }
}

#[test]
fn an_empty_file_has_every_default() {
    let config = read("").unwrap();
    assert_eq!(config.worker.concurrency, 16);
    assert_eq!(config.worker.queues.names(), [queue::QueueName::default()]);
    assert_eq!(config.listen.unwrap().to_string(), "127.0.0.1:9464");
    assert!(config.store.url.is_none() && config.executors.is_empty());
}

#[test]
fn flags_are_over_the_environment_which_is_over_the_file() {
    let file = "[worker]\nconcurrency = 1\nlease = \"1s\"\nshutdown_grace = \"1s\"";
    let environment = |name: &str| match name {
        "WORKERD_CONCURRENCY" => Some("2".into()),
        "WORKERD_LEASE" => Some("2s".into()),
        "WORKERD_SHUTDOWN_GRACE" => Some("".into()),
        _ => None,
    };
    let layers = Layers::of_environment(environment)
        .flag(Setting::Concurrency, Some("3"))
        .flag(Setting::Lease, None);
    let config = read_with(file, &layers).unwrap();
    assert_eq!(config.worker.concurrency, 3);
    assert_eq!(config.worker.lease, Duration::from_secs(2));
    assert_eq!(config.worker.shutdown_grace, Duration::from_secs(1));
}

#[test]
fn a_mistake_in_any_layer_is_reported_with_its_place() {
    let layers = Layers::of_environment(|name| (name == "WORKERD_LEASE").then(|| "soon".into()))
        .flag(Setting::Concurrency, Some("0"));
    let file = "[worker]\nconcurrency = -1\n";
    let text = read_with(file, &layers).unwrap_err().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("w.toml:2: worker.concurrency: "), "{text}");
    assert!(text.contains("--concurrency: \"0\"") && text.contains("variable WORKERD_LEASE: "));
}

/// What is wrong, and how its report begins and what it tells to do.
const WRONG: &[(&str, &str, &str)] = &[
    ("namespace = ", "w.toml:1: this is not TOML", ""),
    ("\n[store]\nurl = \"postgres://h\"", "w.toml:3: store.url: ", "write sqlite:FILE"),
    (
        "[store]\nurl = \"redis+cluster://h\"",
        "w.toml:2: store.url: ",
        "not supported in this version",
    ),
    ("[store]\nurl = 7", "w.toml:2: store.url: is of type integer", "write an address"),
    ("store = 7", "w.toml:1: store: is of type integer", "write a table"),
    ("[store]\ndurability = \"replicas:0\"", "w.toml:2: store.durability: ", "\"replicas:1\""),
    ("[store]\ndurability = \"replicas:256\"", "w.toml:2: store.durability: ", "\"replicas:1\""),
    ("[store]\ndurability = \"disk\"", "w.toml:2: store.durability: ", "write \"memory\","),
    ("namespace = \"No Such\"", "w.toml:1: namespace: ", "1 to 64 characters"),
    ("namespaec = \"a\"", "w.toml:1: namespaec: unknown key", "namespace"),
    ("[worker]\n\nslots = 3", "w.toml:3: worker.slots: unknown key", "concurrency"),
    ("[worker]\nlease = \"30\"", "w.toml:2: worker.lease: ", "\"30s\""),
    ("[worker]\nlease = 30", "w.toml:2: worker.lease: is of type integer", "\"30s\""),
    ("[worker]\nlease = \"1ms\"", "w.toml:2: worker.lease: ", "at least \"500ms\""),
    ("[worker]\nconcurrency = 0", "w.toml:2: worker.concurrency: ", "1 to 10000"),
    ("[worker]\nconcurrency = 1.5", "w.toml:2: worker.concurrency: is of type float", "whole"),
    ("[worker]\nqueues = []", "w.toml:2: worker.queues: ", "write a list"),
    ("[worker]\nqueues = [\n\"a\",\n\"B\"]", "w.toml:4: worker.queues: ", "1 to 64 characters"),
    (
        "[worker]\nqueues = [\"a\", {name=\"a\", weight=1}]",
        "w.toml:2: worker.queues: a is",
        "keep one",
    ),
    ("[worker]\nqueues = [{name=\"b\", max_live=1}]", "w.toml:2: worker.queues.max_live: ", {
        "[queues.NAME]"
    }),
    (
        "[worker]\nqueues = [{name=\"b\", weight=0}]",
        "w.toml:2: worker.queues.weight: ",
        "1 to 1000",
    ),
    ("limits = 1", "w.toml:1: limits: is of type integer", "write a table"),
    ("[limits]\n\"a:b\" = 1", "w.toml:2: limits.\"a:b\": ", "write a table"),
    ("[limits.openai]\nconcurrency = 1", "w.toml:1: limits.openai: ", "\"provider:openai\""),
    ("[limits.\"a:b\"]", "w.toml:1: limits.\"a:b\": nothing is limited", "remove the table"),
    ("[limits.\"a:b\"]\nmax = 1", "w.toml:2: limits.\"a:b\".max: unknown key", "concurrency"),
    (
        "[limits.\"a:b\"]\nconcurrency = 0",
        "w.toml:2: limits.\"a:b\".concurrency: \"0\" is not possible",
        "from 1",
    ),
    (
        "[limits.\"a:b\"]\nrate = 1",
        "w.toml:2: limits.\"a:b\".rate: is of type integer",
        "\"500/1m\"",
    ),
    (
        "[limits.\"a:b\"]\nrate = \"often\"",
        "w.toml:2: limits.\"a:b\".rate: \"often\" is not a rate",
        "500/1m",
    ),
    (
        "[limits.\"a:b\"]\nconcurrency = 1\nburst = 5",
        "w.toml:3: limits.\"a:b\".burst: there is no rate",
        "write one",
    ),
    (
        "[limits.\"a:b\"]\nrate = \"1/d\"\nburst = 500",
        "w.toml:3: limits.\"a:b\".burst: ",
        "366 days",
    ),
    (
        "[limits.\"a:b\"]\nbreaker = { failures = 5 }",
        "w.toml:2: limits.\"a:b\".breaker.window: is missing",
        "cooldown = \"20s\"",
    ),
    (
        "[limits.\"a:b\"]\nbreaker = { failures = 500, window = \"1s\", cooldown = \"1s\" }",
        "w.toml:2: limits.\"a:b\".breaker.failures: ",
        "1 to 100",
    ),
    (
        "[limits.\"a:b\"]\nbreaker = { failures = 5, window = \"1s 500us\", cooldown = \"1s\" }",
        "w.toml:2: limits.\"a:b\".breaker.window: \"1s 500us\" has parts of a millisecond",
        "write whole ones",
    ),
    (
        "[limits.\"a:b\"]\nconcurrency = 2\nadaptive = { floor = 3 }",
        "w.toml:3: limits.\"a:b\".adaptive: ",
        "1 to the concurrency",
    ),
    ("[limits.\"a:b\"]\nweight = 101", "w.toml:2: limits.\"a:b\".weight: ", "1 to 100"),
    (
        "[limits.\"queue:default\"]\nconcurrency = 2",
        "w.toml:1: limits.\"queue:default\": a queue has max_live only",
        "by a key on its jobs",
    ),
    ("[limits.\"queue:A\"]\nmax_live = 2", "w.toml:1: limits.\"queue:A\": ", "1 to 64"),
    ("[queues.default]\nmax_live = 0", "w.toml:2: queues.default.max_live: ", "from 1"),
    ("[queues.default]\nretention = 0", "w.toml:2: queues.default.retention: not supp", "remove"),
    ("[queues.\"A b\"]\nmax_live = 1", "w.toml:1: queues.\"A b\": ", "1 to 64 characters"),
    (
        "[queues.a]\nmax_live = 1\n[limits.\"queue:a\"]\nmax_live = 1",
        "w.toml:1: queues.a: [limits.\"queue:a\"] limits this queue as well",
        "keep one",
    ),
    ("[http]\nlisten = \"0.0.0.0:80\"", "w.toml:2: http.listen: ", "\"127.0.0.1:80\""),
    ("[http]\nlisten = \"localhost\"", "w.toml:2: http.listen: ", "\"off\""),
    ("[log]\nformat = \"xml\"", "w.toml:2: log.format: ", "\"json\""),
    ("[log]\nlevel = \"inof\"", "w.toml:2: log.level: ", "\"info\""),
    ("[executors.a]\nargv = [\"sh\"]", "w.toml:1: executors.a.type: is missing", "type = "),
    ("[executors.a]\ntype = \"http\"\nurl = \"x\"", "w.toml:2: executors.a.type: http", "command"),
    ("[executors.a]\ntype = \"x\"", "w.toml:2: executors.a.type: \"x\" is not", "\"command\""),
    ("[executors]\na = 1", "w.toml:2: executors.a: ", "write a table"),
    (
        "[executors.\"A b\"]\ntype = \"command\"\nargv = [\"sh\"]",
        "w.toml:1: executors.\"A b\": ",
        { "1 to 64 characters" },
    ),
    ("[executors.a]\ntype = \"command\"", "w.toml:1: executors.a.argv: names no program", "write"),
    (
        "[executors.a]\ntype = \"command\"\nargv = []",
        "w.toml:3: executors.a.argv: names no",
        "write",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\",\n7]",
        "w.toml:4: executors.a.argv: ",
        "write",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"no-such-program\"]",
        { "w.toml:3: executors.a.argv: there is no program \"no-such-program\"" },
        "install it",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"/etc/passwd\"]",
        { "w.toml:3: executors.a.argv: /etc/passwd is not an executable" },
        "correct it",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"{payload.x}\"]",
        { "w.toml:3: executors.a.argv: " },
        "",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\", \"{id}\"]",
        { "w.toml:3: executors.a.argv: {id} is not a slot" },
        "{payload.FIELD}",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\nprovider = \"x y\"",
        { "w.toml:4: executors.a.provider: " },
        "its name has characters",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\nprovider = \"provider:x\"",
        { "w.toml:4: executors.a.provider: " },
        "write only the name, \"x\"",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\nlimits = [\"a:b\",\n\"tenant:*\"]",
        { "w.toml:5: executors.a.limits: " },
        "gpu:a100",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\n\
         limits = [\"a:1\", \"a:2\", \"a:3\", \"a:4\", \"a:5\"]",
        { "w.toml:4: executors.a.limits: " },
        "one of 5 keys, and 4 are allowed",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\nlimits = [\"queue:a\"]",
        { "w.toml:4: executors.a.limits: " },
        "name another class",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\nmemory = \"1GiB\"",
        { "w.toml:4: executors.a.memory: not supported in this version" },
        "remove it",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\nenv = [\"WORKERD_URL\"]",
        { "w.toml:4: executors.a.env: " },
        "secrets",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\noutput_max_bytes = 65537",
        { "w.toml:4: executors.a.output_max_bytes: " },
        "1 to 65536",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\nthrottled = 75",
        { "w.toml:4: executors.a.throttled: is of type integer" },
        "a table",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\nthrottled = {}",
        { "w.toml:4: executors.a.throttled.exit_code: is missing" },
        "exit_code = 75",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\nthrottled = { exit_code = 100 }",
        { "w.toml:4: executors.a.throttled.exit_code: 100 makes" },
        "another code",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\nthrottled = { exit_code = 0 }",
        { "w.toml:4: executors.a.throttled.exit_code: " },
        "from 1 to 255",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\nthrottled = { exit_code = 75, delay = \"0s\" }",
        { "w.toml:4: executors.a.throttled.delay: " },
        "at least \"1s\"",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\nthrottled = { exit_code = 75, delay = \"48h\" }",
        { "w.toml:4: executors.a.throttled.delay: " },
        "at most \"1d\"",
    ),
    (
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\nworking_dir = \"/no/such\"",
        { "w.toml:4: executors.a.working_dir: " },
        "make it",
    ),
];

#[test]
fn every_mistake_names_file_line_key_and_what_to_do() {
    for (text, begin, advice) in WRONG {
        let problems = read(text).expect_err(text).to_string();
        assert!(problems.starts_with(begin), "{text}\n→ {problems}");
        assert!(problems.contains(advice), "{text}\n→ {problems}");
    }
}

#[test]
fn all_mistakes_are_reported_together_in_the_order_of_the_file() {
    let text = "[worker]\nlease = \"x\"\nslots = 1\n[store]\nurl = \"x\"\n";
    let problems = read(text).unwrap_err();
    let places: Vec<&str> = problems.0.iter().map(|problem| problem.place.as_str()).collect();
    assert_eq!(places, ["w.toml:2: worker.lease", "w.toml:3: worker.slots", "w.toml:5: store.url"]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Some(Path::new("/no/such.toml")), &Layers::default()).unwrap_err();
    assert!(error.to_string().starts_with("/no/such.toml: cannot be read"), "{error}");
}
