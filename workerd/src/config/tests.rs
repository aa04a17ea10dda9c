//! Files that are right, and a table of files that are wrong.

use super::layers::Setting;
use super::view::View;
use super::*;

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
queues = [{ name = "default", weight = 3 }, { name = "bulk", weight = 1 }]

[executors."report.render"]
type = "command"
argv = ["sh", "render.sh", "--id={payload.id}", "{{}}"]
concurrency = 4
timeout = "10m"
kill_grace = "0s"
env = ["DISPLAY"]
working_dir = "/tmp"
output_max_bytes = 1000
stdout = "discard"

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
    assert!(matches!(&config.worker.queues, Queues::Weighted(queues) if queues.len() == 2));
    let command = &config.executors[&Kind::new("report.render").unwrap()];
    assert!(command.program.ends_with("sh") && command.program.is_absolute());
    assert_eq!(command.arguments.len(), 3);
    assert_eq!(command.kill_grace, Duration::ZERO);
    assert_eq!(config.listen, Some("127.0.0.1:0".parse().unwrap()));
    assert_eq!(config.log.format, LogFormat::Json);
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
    ("[worker]\nqueues = [\"a\", {name=\"b\", weight=1}]", "w.toml:2: worker.queues: ", "to none"),
    ("[worker]\nqueues = [{name=\"b\", max_live=1}]", "w.toml:2: worker.queues.max_live: ", {
        "not supported in this version"
    }),
    (
        "[worker]\nqueues = [{name=\"b\", weight=0}]",
        "w.toml:2: worker.queues.weight: ",
        "1 to 1000",
    ),
    ("[limits.\"provider:x\"]\nrate = 1", "w.toml:1: limits: ", "not supported in this version"),
    ("[queues.default]\nmax_live = 1", "w.toml:1: queues: ", "not supported in this version"),
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
        "[executors.a]\ntype = \"command\"\nargv = [\"sh\"]\nprovider = \"x\"",
        { "w.toml:4: executors.a.provider: not supported in this version" },
        "remove it",
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
