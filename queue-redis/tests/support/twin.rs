//! A way to a server on which each script that has short parts for what is plain runs several times:
//! as the backend sends it, and in copies of the store without these parts, and by each of them alone.
//! Answers and stores must agree.

mod contents;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use queue_core::Namespace;
use queue_redis::{RedisBackend, RedisOptions};
use redis::{Connection, ErrorKind, RedisError, RedisResult, Value};

use super::server::TestRedis;

/// Where a script's shortest part begins, which is left at once by another line there, and what
/// comes behind it.
const SHORTEST: &str = "\nrepeat\n  local argv";
const SKIPPED: &str = "\nrepeat\n  do break end\n  local argv";
const BEHIND_SHORTEST: &str = "\n-- Keys that a script does not declare ";
/// The last lines of the plain parts: without them, the whole one does everything.
const HANDOVERS: [(&str, &str); 3] = [
    ("enqueue", ENQUEUE_HANDOVER),
    ("claim", "local reply = claim_plain()\nif reply then return reply end\n"),
    ("settle", "-- Behind the plain part of settlements.\n"),
];
const ENQUEUE_HANDOVER: &str = "\
local is_done, reply = pcall(enqueue_plain)
if not is_done then
  if take_back then pcall(take_back) end
  -- As in enqueue.lua.
  if type(reply) == 'string' and string.find(reply, '^%u+ ') then return redis.error_reply(reply) end
  error(reply, 0)
end
if reply then return reply end
";
const NOT_PLAIN: &str = "NOTPLAIN";

/// The databases.
const REAL: usize = 0;
const WHOLE: usize = 1;
const PART: usize = 2;

/// Copies the store of the first database into another.
const COPY: &str = "
for _, key in ipairs(redis.call('KEYS', '*')) do
  redis.call('COPY', key, key, 'DB', ARGV[1])
end
return redis.status_reply('OK')";

/// When an enqueue leaves the times that records come with (`times.lua`), and when it does here, where the
/// store's clock stands still: now and then.
const BELIEVES: &str = "if is_ahead or sent_ms > now or sent_ms <= now - 1000 then";
const GUESSES: &str = "if (byte(ARGV[11], -1) + floor(#ARGV / 2)) % 2 == 0 then";

/// How often a script was called, and how often its shortest and its plain part could do the call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub calls: usize,
    pub shortest: usize,
    pub plain: usize,
}

#[derive(Debug, Clone)]
pub struct Twin {
    address: SocketAddr,
    server: PathBuf,
    state: Arc<Mutex<State>>,
}

struct State {
    /// The server's first, which is the real one, that of whole scripts, and that of their parts.
    databases: [Connection; 3],
    /// By the hash of the script that the backend calls.
    scripts: HashMap<Vec<u8>, Variants>,
    tallies: BTreeMap<&'static str, Tally>,
    differences: Vec<String>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("tallies", &self.tallies).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
struct Variants {
    name: &'static str,
    /// The hash of the script as it is, but for what an enqueue believes.
    real: String,
    /// The hashes of the parts, each alone, with an error in place of what is behind it.
    shortest: String,
    plain: String,
    /// The hash of the whole script without the two.
    whole: String,
}

impl Twin {
    /// Listens on a free port of the loopback.
    pub fn start(redis: &TestRedis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let database = |number: &str| {
            let mut client = redis.client();
            redis::cmd("SELECT").arg(number).exec(&mut client).expect("a database");
            client
        };
        let state = State {
            databases: [database("0"), database("1"), database("2")],
            scripts: HashMap::new(),
            tallies: BTreeMap::new(),
            differences: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let twin = Self { address, server: redis.socket(), state };
        let serving = twin.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let serving = serving.clone();
                // It ends with the client's connection, or with the server's.
                std::thread::spawn(move || serving.serve(client));
            }
        });
        twin
    }

    /// A backend behind this. Each of its calls is made several times, in copies of the store: it waits
    /// longer for answers than others.
    pub async fn backend(&self) -> RedisBackend {
        let options = RedisOptions::default().namespace(Namespace::new("twin").expect("a name"));
        let options = options.answer_within(Duration::from_secs(60));
        let url = format!("redis://{}", self.address);
        RedisBackend::connect_with(&url, options).await.expect("a connection")
    }

    pub fn tally(&self, name: &str) -> Tally {
        self.state().tallies.get(name).copied().unwrap_or_default()
    }

    /// What has differed since the last look.
    pub fn differences(&self) -> Vec<String> {
        std::mem::take(&mut self.state().differences)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panics")
    }

    fn serve(&self, client: TcpStream) -> Option<()> {
        // Or small answers wait for acknowledgements.
        client.set_nodelay(true).ok()?;
        let server = UnixStream::connect(&self.server).ok()?;
        let (mut to_client, mut to_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
        let (mut requests, mut replies) = (BufReader::new(client), BufReader::new(server));
        loop {
            let request = read_frame(&mut requests)?;
            let words = words_of(&request);
            let mut forward = |request: &[u8]| {
                to_server.write_all(request).ok()?;
                read_frame(&mut replies)
            };
            let reply = match words.as_slice() {
                [first, second, text] if *first == b"SCRIPT" && *second == b"LOAD" => {
                    self.state().meet(text);
                    forward(&request)
                }
                [first, hash, ..] if *first == b"EVALSHA" => {
                    let mut state = self.state();
                    let known = state.scripts.get(*hash).cloned();
                    match known {
                        Some(variants) => {
                            let real = with_hash(&request, hash, &variants.real);
                            state.run(&variants, &words[2..], || forward(&real))
                        }
                        None => forward(&request),
                    }
                }
                _ => forward(&request),
            };
            to_client.write_all(&reply?).ok()?;
        }
    }
}

impl State {
    /// Makes the variants of a script that has such parts.
    fn meet(&mut self, text: &[u8]) {
        let text = std::str::from_utf8(text).expect("a script");
        let mut load = |text: &str| -> String {
            let mut cmd = redis::cmd("SCRIPT");
            cmd.arg("LOAD").arg(text).query(&mut self.databases[0]).expect("a script")
        };
        let give_up = format!("return redis.error_reply('{NOT_PLAIN}')\n");
        for (name, handover) in HANDOVERS {
            let believed = text.replacen(BELIEVES, GUESSES, 1);
            let Some((plain, whole)) = believed.split_once(handover) else { continue };
            assert_eq!(believed != text, name == "enqueue", "{name}");
            let (shortest, _) = plain.split_once(BEHIND_SHORTEST).expect("a shortest part");
            let plain = plain.replacen(SHORTEST, SKIPPED, 1);
            assert!(plain.contains(SKIPPED), "{name} has no shortest part");
            let variants = Variants {
                name,
                shortest: load(&format!("{shortest}\n{give_up}")),
                plain: load(&format!("{plain}{handover}{give_up}")),
                whole: load(&format!("{plain}{whole}")),
                real: load(&believed),
            };
            self.scripts.insert(load(text).into_bytes(), variants);
        }
    }

    /// Makes the call as it is, by `forward`, and in copies: whole, and by each part alone.
    fn run(
        &mut self,
        variants: &Variants,
        arguments: &[&[u8]],
        forward: impl FnOnce() -> Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let name = variants.name;
        self.copy(WHOLE);
        let whole = self.call(WHOLE, &variants.whole, arguments);
        let mut could = Vec::new();
        for (part, hash) in [("shortest", &variants.shortest), ("plain", &variants.plain)] {
            self.copy(PART);
            let answer = self.call(PART, hash, arguments);
            let gave_up = matches!(&answer, Err(error) if error.to_string().contains(NOT_PLAIN));
            if gave_up {
                let what =
                    format!("{name}: what the {part} part gave up has left something behind");
                self.compare([REAL, PART], false, &what);
            } else {
                self.agree(name, part, PART, (&answer, &whole));
            }
            could.push(!gave_up);
        }
        let tally = self.tallies.entry(name).or_default();
        tally.calls += 1;
        tally.shortest += usize::from(could[0]);
        tally.plain += usize::from(could[1]);
        let reply = forward()?;
        let real = redis::parse_redis_value(&reply).and_then(Value::extract_error);
        let by = if could.contains(&true) { "real" } else { "real, whole" };
        self.agree(name, by, REAL, (&real, &whole));
        Some(reply)
    }

    /// Compares an answer, and what a call has made of the store, with those of the whole script.
    fn agree(
        &mut self,
        name: &str,
        by: &str,
        database: usize,
        (answer, whole): (&RedisResult<Value>, &RedisResult<Value>),
    ) {
        // Allowed difference: a part needs less, and may work where a key that only the whole one
        // reads has a wrong type.
        let is_wrong_type = |error: &RedisError| error.to_string().contains("WRONGTYPE");
        if by != "real, whole" && answer.is_ok() && whole.as_ref().is_err_and(is_wrong_type) {
            return;
        }
        if !is_same_answer(answer, whole) {
            let what = format!("{name}: answers\n  {by}  {answer:?}\n  whole {whole:?}");
            self.differences.push(what);
        }
        let is_plain_claim = name == "claim" && by != "real, whole";
        self.compare([database, WHOLE], is_plain_claim, &format!("{name}: {by} and whole differ"));
    }

    fn compare(&mut self, which: [usize; 2], is_plain_claim: bool, what: &str) {
        let [first, second] = self.databases.get_disjoint_mut(which).expect("two of the databases");
        let found = contents::differences(first, second, is_plain_claim);
        self.differences.extend(found.into_iter().map(|one| format!("{what}: {one}")));
    }

    fn copy(&mut self, to: usize) {
        redis::cmd("FLUSHDB").exec(&mut self.databases[to]).expect("an empty database");
        redis::cmd("EVAL")
            .arg(COPY)
            .arg(0)
            .arg(to)
            .exec(&mut self.databases[REAL])
            .expect("a copy");
    }

    fn call(&mut self, database: usize, hash: &str, arguments: &[&[u8]]) -> RedisResult<Value> {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(hash).arg(arguments);
        cmd.query(&mut self.databases[database])
    }
}

/// The same call of a script with another hash.
fn with_hash(request: &[u8], hash: &[u8], other: &str) -> Vec<u8> {
    let at = request.windows(hash.len()).position(|part| part == hash).expect("the hash");
    let mut request = request.to_vec();
    request[at..at + hash.len()].copy_from_slice(other.as_bytes());
    request
}

/// Errors are compared by their kind: the server adds the line of the script.
fn is_same_answer(one: &RedisResult<Value>, other: &RedisResult<Value>) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one == other,
        (Err(one), Err(other)) => one.kind() == other.kind() && one.kind() != ErrorKind::Io,
        _ => false,
    }
}

/// One whole RESP2 frame; nothing at the end of the stream.
fn read_frame(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    let mut open = 1_usize;
    while open > 0 {
        let from = frame.len();
        stream.read_until(b'\n', &mut frame).ok().filter(|count| *count > 0)?;
        let line = std::str::from_utf8(frame.get(from + 1..frame.len() - 2)?).ok()?;
        open -= 1;
        match (frame[from], line.parse::<usize>()) {
            (b'$', Ok(length)) => {
                let end = frame.len();
                frame.resize(end + length + 2, 0);
                stream.read_exact(&mut frame[end..]).ok()?;
            }
            (b'*', Ok(length)) => open += length,
            _ => {}
        }
    }
    Some(frame)
}

/// The words of a command.
fn words_of(frame: &[u8]) -> Vec<&[u8]> {
    let mut words = Vec::new();
    let mut rest = frame;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (head, tail) = (&rest[..end - 1], &rest[end + 1..]);
        rest = tail;
        if let Some(length) = head.strip_prefix(b"$") {
            let length = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok());
            let (word, tail) = rest.split_at(length.expect("a length"));
            words.push(word);
            rest = &tail[2..];
        }
    }
    words
}
