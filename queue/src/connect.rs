//! From a URL to a [`Queue`].

use std::path::PathBuf;

use queue_core::payload::PAYLOAD_DEFAULT_MAX_BYTES;
use queue_core::{Durability, Error, Namespace, Queue};

/// How to connect, besides the URL.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// Keeps the queues of different applications apart in one store. Default: `default`.
    pub namespace: Namespace,
    /// What the acknowledgements of enqueues must survive; each enqueue can ask for more
    /// ([`Queue::durability`]). Default: what the store does by itself, which is to flush each
    /// commit for a SQLite file, and for a Redis server whatever it is configured to do.
    ///
    /// Connecting fails if the store can never give it: a SQLite file has no replicas, a Redis
    /// server with [`Durability::Fsync`] needs `appendfsync always`.
    pub durability: Option<Durability>,
    /// The most bytes that a payload may have. Default 256 KiB.
    pub payload_max_bytes: usize,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            namespace: Namespace::default(),
            durability: None,
            payload_max_bytes: PAYLOAD_DEFAULT_MAX_BYTES,
        }
    }
}

impl ConnectOptions {
    /// Sets the namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
        self
    }

    /// Sets what the acknowledgements of enqueues must survive.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// Sets the most bytes that a payload may have.
    #[must_use]
    pub fn payload_max_bytes(mut self, bytes: usize) -> Self {
        self.payload_max_bytes = bytes;
        self
    }

    /// The file in which the jobs are that a `sqlite:` URL and the namespace mean, whether it is there or not.
    /// `None` for other stores, and for a URL that names no file.
    ///
    /// ```
    /// use queue::{ConnectOptions, Namespace};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = ConnectOptions::default().namespace(Namespace::new("shop")?);
    /// # #[cfg(feature = "sqlite")]
    /// assert_eq!(options.file("sqlite:queue.db"), Some("queue.db.shop".into()));
    /// assert_eq!(options.file("redis://localhost"), None);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn file(&self, url: &str) -> Option<PathBuf> {
        #[cfg(feature = "sqlite")]
        if url.starts_with("sqlite:") {
            let path = sqlite_path(url).ok()?;
            return queue_sqlite::SqliteBackend::file_of(path, &self.namespace).ok();
        }
        let _ = url;
        None
    }
}

/// Adds `connect` to [`Queue`].
///
/// | URL | store |
/// |---|---|
/// | `memory://` | this process's memory, a new store each time |
/// | `sqlite:queue.db`, `sqlite://queue.db` | a file beside the working directory |
/// | `sqlite:///var/lib/app/queue.db` | a file by its absolute path |
/// | `redis://[user:password@]host[:port][/db]` | a Redis or Valkey server |
/// | `rediss://…` | the same over TLS |
/// | `redis+unix:///run/redis.sock` | the same over a Unix socket |
///
/// Use the queue inside a tokio runtime, with its timers and its I/O enabled. Some calls on memory and SQLite
/// work without one (an enqueue does); on Redis every call needs it, and panics elsewhere.
pub trait Connect: Sized {
    /// Connects with the default options.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a URL that is none of the above or whose backend is not compiled
    /// in, [`Error::Unavailable`] if the store does not answer, [`Error::Refused`] if it must not
    /// be used as it is.
    fn connect(url: &str) -> impl Future<Output = Result<Self, Error>> + Send {
        Self::connect_with(url, ConnectOptions::default())
    }

    /// Connects.
    ///
    /// # Errors
    /// As [`Connect::connect`].
    fn connect_with(
        url: &str,
        options: ConnectOptions,
    ) -> impl Future<Output = Result<Self, Error>> + Send;
}

impl Connect for Queue {
    async fn connect_with(url: &str, options: ConnectOptions) -> Result<Self, Error> {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        let queue = match scheme {
            "memory" => memory(&options)?,
            "sqlite" => sqlite(url, &options).await?,
            "redis" | "rediss" | "redis+unix" | "unix" => redis(url, &options).await?,
            _ => return Err(unknown(scheme)),
        };
        Ok(queue.payload_max_bytes(options.payload_max_bytes))
    }
}

fn memory(options: &ConnectOptions) -> Result<Queue, Error> {
    match options.durability {
        None | Some(Durability::Memory) => Ok(Queue::memory()),
        Some(asked) => Err(Error::Unsupported(format!(
            "durability {asked} with memory://, which ends with its process; use sqlite: or redis:"
        ))),
    }
}

/// Names the scheme at most: the rest of the URL may hold a password.
fn unknown(scheme: &str) -> Error {
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let scheme = if scheme.len() <= 20 && scheme.chars().all(is_scheme) { scheme } else { "?" };
    Error::Unsupported(format!(
        "store URL with scheme {scheme:?}: expected memory://, sqlite:PATH, redis://HOST, \
         rediss://HOST or redis+unix://PATH"
    ))
}

#[cfg(feature = "sqlite")]
fn sqlite_path(url: &str) -> Result<&str, Error> {
    let rest = url.strip_prefix("sqlite:").unwrap_or(url);
    let path = rest.strip_prefix("//").unwrap_or(rest);
    let why = match path {
        "" => "sqlite URL without a path: write sqlite:queue.db or sqlite:///path/queue.db",
        ":memory:" => "sqlite::memory: is not a file; write memory:// for jobs that may be lost",
        _ if path.contains('?') => "sqlite URL with parameters: there are none, write the path",
        _ => "",
    };
    if why.is_empty() { Ok(path) } else { Err(Error::Unsupported(why.to_owned())) }
}

#[cfg(feature = "sqlite")]
async fn sqlite(url: &str, options: &ConnectOptions) -> Result<Queue, Error> {
    use queue_sqlite::{SqliteBackend, SqliteOptions};
    let path = sqlite_path(url)?;
    let asked = options.durability.unwrap_or(Durability::Fsync);
    let durability = match asked {
        Durability::Memory => queue_sqlite::Durability::Memory,
        Durability::Fsync => queue_sqlite::Durability::Fsync,
        _ => {
            let why = format!("durability {asked} with sqlite:, which has no replicas");
            return Err(Error::Unsupported(why));
        }
    };
    let sqlite_options =
        SqliteOptions::default().namespace(options.namespace.clone()).durability(durability);
    let path = path.to_owned();
    // Opening reads files and may wait for another process that is just making them.
    let open = tokio::task::spawn_blocking(move || SqliteBackend::open(path, sqlite_options));
    let backend = open.await.map_err(|error| Error::Unavailable(error.to_string()))??;
    Ok(Queue::new(backend).durability(asked))
}

#[cfg(not(feature = "sqlite"))]
async fn sqlite(_: &str, _: &ConnectOptions) -> Result<Queue, Error> {
    Err(Error::Unsupported("sqlite: the crate feature \"sqlite\" is not enabled".to_owned()))
}

#[cfg(feature = "redis")]
async fn redis(url: &str, options: &ConnectOptions) -> Result<Queue, Error> {
    use queue_redis::RedisBackend;
    let backend = RedisBackend::connect(url, options.namespace.clone()).await?;
    let asked = options.durability.unwrap_or(Durability::Memory);
    backend.require(asked).await?;
    Ok(Queue::new(backend).durability(asked))
}

#[cfg(not(feature = "redis"))]
async fn redis(_: &str, _: &ConnectOptions) -> Result<Queue, Error> {
    Err(Error::Unsupported("redis: the crate feature \"redis\" is not enabled".to_owned()))
}
