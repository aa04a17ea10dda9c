//! Connections to one Redis server.
//!
//! Calls share one multiplexed connection *per tokio runtime*: a connection lives on the runtime
//! that made it, and a worker renews its leases from a runtime of its own, so that handlers that
//! block the main one do not take the renewals down with it.

mod address;
mod pace;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use queue_core::Error;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError, ServerErrorKind, Value};
use tokio::runtime::{Handle, Id};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::scripts;
use address::Address;
pub(crate) use pace::reconnect_pause;
use pace::{Pace, Turn};

/// How long a connection may take. The client's own limit of 1 s is less than a busy server needs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Calls that may wait to be written before others have to wait for room.
const PIPELINE_BUFFER: usize = 1024;

/// Where the server is and how to reach it.
pub(crate) struct Link {
    server: Arc<Server>,
    slots: Mutex<HashMap<Id, Slot>>,
}

struct Server {
    address: Address,
    /// How long an answer on a shared connection may take.
    answer_within: Duration,
    pace: Pace,
    /// Whether a server that is not a master is refused.
    wants_master: AtomicBool,
    /// How often a shared connection has taken the place of a broken one.
    reconnects: watch::Sender<u64>,
}

/// What the tasks of one runtime share.
#[derive(Clone, Default)]
struct Place {
    current: Arc<Current>,
    turn: Arc<Turn>,
}

/// The place of one runtime.
struct Slot {
    place: Place,
    /// Closed as soon as the runtime, and with it the connection's driver, is gone: ids of
    /// runtimes are used again.
    runtime: oneshot::Sender<()>,
}

#[derive(Default)]
struct Current {
    phase: Mutex<Phase>,
    /// The last connection has broken.
    is_broken: AtomicBool,
}

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    /// A task of its own is connecting: it goes on even if no caller is polled, and all callers
    /// share what comes of it.
    Connecting(watch::Receiver<Option<Dialed>>),
    Connected(MultiplexedConnection, Generation),
}

type Dialed = Result<(MultiplexedConnection, Generation), RedisError>;

/// Tells a slot's connections apart, so that a broken one is thrown away only once.
#[derive(Debug, Clone)]
struct Generation(Arc<()>);

/// A shared connection, and which one it is.
pub(crate) struct Shared {
    pub(crate) connection: MultiplexedConnection,
    current: Arc<Current>,
    generation: Generation,
}

impl Link {
    /// Reads the URL; connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::Refused`] if the URL is not one of a Redis server. The message never holds the
    /// URL, which may hold a password.
    pub(crate) fn new(url: &str, answer_within: Duration) -> Result<Self, Error> {
        let address = Address::new(url)?;
        let (pace, wants_master) = (Pace::default(), AtomicBool::new(false));
        let reconnects = watch::Sender::default();
        let server = Arc::new(Server { address, answer_within, pace, wants_master, reconnects });
        Ok(Self { server, slots: Mutex::default() })
    }

    /// From now on, every new connection is refused unless it leads to a master: after a fail-over
    /// an address may lead to the old one, which would answer reads with what was.
    pub(crate) fn want_master(&self) {
        self.server.wants_master.store(true, Ordering::Relaxed);
    }

    /// Waits until a shared connection has taken the place of a broken one more often than `seen`
    /// times, on any runtime; answers how often.
    pub(crate) async fn reconnected(&self, seen: u64) -> u64 {
        let mut reconnects = self.server.reconnects.subscribe();
        // Cannot fail: the sender is here.
        reconnects.wait_for(|count| *count > seen).await.map_or(seen, |count| *count)
    }

    /// How long an answer may take.
    pub(crate) fn answer_within(&self) -> Duration {
        self.server.answer_within
    }

    /// The shared connection of the calling runtime, made now if there is none. Waits for it until
    /// then, and answers with the last error if there is none by then.
    ///
    /// # Cancel safety
    /// Safe to drop; a connection that is being made goes to the next caller.
    pub(crate) async fn shared(&self, until: Instant) -> Result<Shared, RedisError> {
        let Place { current, turn } = self.place();
        let mut dialing = match &mut *current.lock() {
            Phase::Connected(connection, generation) => {
                let (connection, generation) = (connection.clone(), generation.clone());
                return Ok(Shared { connection, current: current.clone(), generation });
            }
            Phase::Connecting(dialing) => dialing.clone(),
            idle @ Phase::Idle => {
                let (dialed, dialing) = watch::channel(None);
                *idle = Phase::Connecting(dialing.clone());
                tokio::spawn(connect(self.server.clone(), turn, current.clone(), dialed));
                dialing
            }
        };
        let Ok(dialed) = timeout_at(until, dialing.wait_for(Option::is_some)).await else {
            return Err(self.server.pace.last_refusal().unwrap_or_else(not_connected));
        };
        let Some(dialed) = dialed.ok().and_then(|dialed| dialed.clone()) else {
            current.forget_lost_attempt();
            return Err(not_connected());
        };
        let (connection, generation) = dialed?;
        Ok(Shared { connection, current, generation })
    }

    /// A connection for one owner, whose answers may take as long as they like: for blocking
    /// commands. Not pooled: its owner keeps it for as long as it waits, and a pool would ask the
    /// server for a sign of life each time it is handed out.
    pub(crate) async fn own(&self) -> Result<MultiplexedConnection, RedisError> {
        let turn = self.place().turn;
        turn.take(&self.server.pace, self.server.dial(None)).await
    }

    /// A call was answered, on any connection.
    pub(crate) fn succeeded(&self) {
        self.server.pace.succeeded();
    }

    /// Throws a shared connection away, so that the next call makes a new one, unless that has
    /// happened already.
    pub(crate) fn discard(&self, shared: &Shared, why: &RedisError) {
        let mut phase = shared.current.lock();
        let is_current = matches!(&*phase, Phase::Connected(_, latest)
            if Arc::ptr_eq(&latest.0, &shared.generation.0));
        if is_current {
            *phase = Phase::Idle;
            shared.current.is_broken.store(true, Ordering::Relaxed);
            self.server.pace.broke(why);
        }
    }

    fn place(&self) -> Place {
        let runtime = Handle::current();
        let mut slots = self.lock();
        if let Some(slot) = slots.get(&runtime.id()).filter(|slot| !slot.runtime.is_closed()) {
            return slot.place.clone();
        }
        slots.retain(|_, slot| !slot.runtime.is_closed());
        let (alive, ended) = oneshot::channel();
        // Ends with the slot or with the runtime, whichever is first.
        runtime.spawn(async move {
            let _ = ended.await;
        });
        let slot = Slot { place: Place::default(), runtime: alive };
        slots.entry(runtime.id()).insert_entry(slot).get().place.clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Slot>> {
        // The map is whole between any two statements.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Link {
    /// The address only: the connection's settings hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.server.address.client.get_connection_info().addr())
    }
}

impl Current {
    fn lock(&self) -> MutexGuard<'_, Phase> {
        // Each change is one assignment.
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task that was connecting ended without an answer: the next call starts another.
    fn forget_lost_attempt(&self) {
        let mut phase = self.lock();
        if matches!(&*phase, Phase::Connecting(dialing) if dialing.has_changed().is_err()) {
            *phase = Phase::Idle;
        }
    }
}

/// Makes a slot's connection and tells everybody who waits for it.
async fn connect(
    server: Arc<Server>,
    turn: Arc<Turn>,
    current: Arc<Current>,
    dialed: watch::Sender<Option<Dialed>>,
) {
    let answer = turn
        .take(&server.pace, server.dial_knowing_scripts())
        .await
        .map(|connection| (connection, Generation(Arc::new(()))));
    if answer.is_ok() {
        let again = current.is_broken.swap(false, Ordering::Relaxed);
        metrics::counter!("queue_store_reconnects_total").increment(u64::from(again));
        server.reconnects.send_if_modified(|count| {
            *count += u64::from(again);
            again
        });
    }
    *current.lock() = match answer.clone() {
        Ok((connection, generation)) => Phase::Connected(connection, generation),
        Err(_) => Phase::Idle,
    };
    dialed.send_replace(Some(answer));
}

impl Server {
    /// A server that has just started knows no scripts. Telling it beforehand spares each first
    /// call a round trip, and a settlement and the claim behind it stay in order. A user who may
    /// not load scripts needs somebody else to do so.
    async fn dial_knowing_scripts(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut connection = self.dial(Some(self.answer_within)).await?;
        let scripts = scripts::load_all();
        // Only a broken connection is an error here; a refusal shows at the first call.
        connection.send_packed_commands(&scripts, 0, scripts.len()).await?;
        Ok(connection)
    }

    /// Connects, and makes sure to have come to the right place. A server that has no room for one
    /// more client says so in its first answer and hangs up: nothing is sent before that.
    async fn dial(&self, response: Option<Duration>) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(response)
            .set_pipeline_buffer_size(PIPELINE_BUFFER);
        let client = &self.address.client;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let until = Instant::now() + self.answer_within;
        let greeted = timeout_at(until, self.greet(&mut connection)).await;
        greeted
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))?;
        Ok(connection)
    }

    async fn greet(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        for cmd in &self.address.greeting {
            connection.send_packed_command(cmd).await?.extract_error()?;
        }
        let role = connection.send_packed_command(redis::cmd("INFO").arg("replication")).await?;
        let is_replica = match role.extract_error() {
            Ok(Value::BulkString(text)) => String::from_utf8_lossy(&text).contains("role:slave"),
            // A user who may not ask learns it from the first write.
            Err(error) if error.code() != Some("NOPERM") => return Err(error),
            _ => false,
        };
        if is_replica && self.wants_master.load(Ordering::Relaxed) {
            return Err((ServerErrorKind::ReadOnly.into(), "a new connection").into());
        }
        let mut name = redis::pipe();
        let version = env!("CARGO_PKG_VERSION");
        name.cmd("CLIENT").arg("SETINFO").arg("LIB-NAME").arg("queue");
        name.cmd("CLIENT").arg("SETINFO").arg("LIB-VER").arg(version);
        // Servers before 7.2 do not know the command.
        connection.send_packed_commands(&name, 0, 2).await?;
        Ok(())
    }
}

fn not_connected() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::NotConnected).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_the_address_only() {
        let within = Duration::from_secs(1);
        let link = Link::new("redis://user:hunter2@localhost:6379/1", within).unwrap();
        assert_eq!(format!("{link:?}"), "Link(localhost:6379)");
    }

    /// As if the task had panicked: a call that found no connection must not be the last one.
    #[tokio::test]
    async fn an_attempt_that_was_lost_is_followed_by_another() {
        let directory = tempfile::tempdir().unwrap();
        let nowhere = format!("redis+unix://{}", directory.path().join("none").display());
        let link = Link::new(&nowhere, Duration::from_secs(1)).unwrap();
        let (_, lost) = watch::channel(None);
        *link.place().current.lock() = Phase::Connecting(lost);
        let until = Instant::now() + Duration::from_secs(20);
        let error = async || link.shared(until).await.err().unwrap().to_string();
        assert_eq!(error().await, not_connected().to_string());
        assert!(error().await.contains("No such file"));
    }
}
