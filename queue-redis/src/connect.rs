//! Connections to one Redis server.
//!
//! Calls share one multiplexed connection *per tokio runtime*: a connection lives on the runtime
//! that made it, and a worker renews its leases from a runtime of its own, so that handlers that
//! block the main one do not take the renewals down with it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use queue_core::Error;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, RedisError};
use tokio::runtime::{Handle, Id};
use tokio::sync::{oneshot, watch};

use crate::scripts;

/// How long a connection may take, and then each answer on a shared one. The client's own limits
/// are 1 s and 500 ms, less than a busy server or a blocked command needs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Calls that may wait to be written before others have to wait for room.
const PIPELINE_BUFFER: usize = 1024;

/// Where the server is and how to reach it.
pub(crate) struct Link {
    client: Client,
    slots: Mutex<HashMap<Id, Slot>>,
}

/// The shared connection of one runtime.
struct Slot {
    current: Arc<Current>,
    /// Closed as soon as the runtime, and with it the connection's driver, is gone: ids of
    /// runtimes are used again.
    runtime: oneshot::Sender<()>,
}

#[derive(Default)]
struct Current {
    phase: Mutex<Phase>,
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
    pub(crate) fn new(url: &str) -> Result<Self, Error> {
        let info = connection_info(url)?;
        let client = Client::open(info).map_err(|e| Error::Refused(e.to_string()))?;
        Ok(Self { client, slots: Mutex::default() })
    }

    /// The shared connection of the calling runtime, made now if there is none.
    ///
    /// # Cancel safety
    /// Safe to drop; a connection that is being made goes to the next caller.
    pub(crate) async fn shared(&self) -> Result<Shared, RedisError> {
        let current = self.slot();
        let mut dialing = match &mut *current.lock() {
            Phase::Connected(connection, generation) => {
                let (connection, generation) = (connection.clone(), generation.clone());
                return Ok(Shared { connection, current: current.clone(), generation });
            }
            Phase::Connecting(dialing) => dialing.clone(),
            idle @ Phase::Idle => {
                let (dialed, dialing) = watch::channel(None);
                *idle = Phase::Connecting(dialing.clone());
                tokio::spawn(connect(self.client.clone(), current.clone(), dialed));
                dialing
            }
        };
        let dialed = dialing.wait_for(Option::is_some).await.ok().and_then(|d| d.clone());
        let Some(dialed) = dialed else {
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
        dial(&self.client, None).await
    }

    fn slot(&self) -> Arc<Current> {
        let runtime = Handle::current();
        let mut slots = self.lock();
        if let Some(slot) = slots.get(&runtime.id()).filter(|slot| !slot.runtime.is_closed()) {
            return slot.current.clone();
        }
        slots.retain(|_, slot| !slot.runtime.is_closed());
        let (alive, ended) = oneshot::channel();
        // Ends with the slot or with the runtime, whichever is first.
        runtime.spawn(async move {
            let _ = ended.await;
        });
        let slot = Slot { current: Arc::default(), runtime: alive };
        slots.entry(runtime.id()).insert_entry(slot).get().current.clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Slot>> {
        // The map is whole between any two statements.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Link {
    /// The address only: the connection's settings hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.client.get_connection_info().addr())
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

impl Shared {
    /// Throws the connection away, so that the next call makes a new one, unless that has
    /// happened already.
    pub(crate) fn discard(self) {
        let mut phase = self.current.lock();
        if matches!(&*phase, Phase::Connected(_, latest) if Arc::ptr_eq(&latest.0, &self.generation.0))
        {
            *phase = Phase::Idle;
        }
    }
}

/// Makes a slot's connection and tells everybody who waits for it.
async fn connect(client: Client, current: Arc<Current>, dialed: watch::Sender<Option<Dialed>>) {
    let answer = dial_knowing_scripts(&client)
        .await
        .map(|connection| (connection, Generation(Arc::new(()))));
    *current.lock() = match answer.clone() {
        Ok((connection, generation)) => Phase::Connected(connection, generation),
        Err(_) => Phase::Idle,
    };
    dialed.send_replace(Some(answer));
}

/// A server that has just started knows no scripts. Telling it beforehand spares each first call
/// a round trip, and a settlement and the claim behind it stay in order. A user who may not load
/// scripts needs somebody else to do so.
async fn dial_knowing_scripts(client: &Client) -> Result<MultiplexedConnection, RedisError> {
    let mut connection = dial(client, Some(RESPONSE_TIMEOUT)).await?;
    // A server that wants a password takes only small commands before it, and closes the
    // connection without a word at others.
    connection.send_packed_command(&redis::cmd("PING")).await?.extract_error()?;
    let scripts = scripts::load_all();
    // Only a broken connection is an error here; a refusal shows at the first call.
    connection.send_packed_commands(&scripts, 0, scripts.len()).await?;
    Ok(connection)
}

async fn dial(
    client: &Client,
    response: Option<Duration>,
) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(response)
        .set_pipeline_buffer_size(PIPELINE_BUFFER);
    client.get_multiplexed_async_connection_with_config(&config).await
}

fn not_connected() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::NotConnected).into()
}

fn connection_info(url: &str) -> Result<ConnectionInfo, Error> {
    let scheme = url.split("://").next().unwrap_or_default();
    match scheme {
        "rediss" | "valkeys" => use_tls()?,
        "redis" | "valkey" | "redis+unix" | "valkey+unix" | "unix" => {}
        _ => {
            let known = "redis://, rediss:// and redis+unix://";
            return Err(Error::Refused(format!("the URL is not one of Redis: {known} are known")));
        }
    }
    let info = url.into_connection_info().map_err(|e| Error::Refused(e.to_string()))?;
    let redis = info.redis_settings().clone();
    let redis = redis.set_lib_name("queue", env!("CARGO_PKG_VERSION"));
    Ok(info.set_tcp_settings(tcp_settings()).set_redis_settings(redis))
}

/// Without these a small answer waits for an ACK, and a connection whose other end vanished
/// without a word looks alive for hours.
fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let settings = settings.set_user_timeout(Duration::from_secs(10));
    settings
}

#[cfg(feature = "tls")]
fn use_tls() -> Result<(), Error> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails only if somebody else has just installed one, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    Ok(())
}

#[cfg(not(feature = "tls"))]
fn use_tls() -> Result<(), Error> {
    Err(Error::Unsupported("rediss:// needs the feature `tls` of queue-redis".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_in_no_message_and_no_debug_output() {
        let link = Link::new("redis://user:hunter2@localhost:6379/1").unwrap();
        assert_eq!(format!("{link:?}"), "Link(localhost:6379)");
        let wrong = [
            "http://user:hunter2@localhost",
            "redis://user:hunter2@localhost:99999",
            "redis://user:hunter2@localhost/no-number",
            "redis://user:hunter2@0.0.0.0/",
        ];
        for url in wrong {
            let error = Link::new(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_has_a_crypto_provider_even_if_the_program_installed_none() {
        Link::new("rediss://localhost:6379").unwrap();
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }
}
