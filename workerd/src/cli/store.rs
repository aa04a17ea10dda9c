//! The store that a command of the command line works on.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use queue::{Connect, ConnectOptions, Error, Queue};
use tokio::time::timeout;

use super::Common;
use crate::config::{Config, Store};
use crate::display::escape;
use crate::exit::{Exit, Failure};
use crate::waits::Waits;

/// What makes a database.
pub(super) const WHO_MAKES_IT: &str =
    "the first workerd run, enqueue, limit set or queue pause makes it";

/// Tells people once that the store is away.
#[derive(Debug, Default)]
pub(super) struct Away {
    is_told: bool,
}

impl Away {
    pub(super) fn tell(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.is_told, true) {
            let message = format!("workerd: {}; trying on\n", escape(&error.to_string()));
            // Nobody may be there to read it.
            let _ = std::io::stderr().write_all(message.as_bytes());
        }
    }
}

/// How long a store may take to be opened, however short a wait is to be.
const CONNECT_MIN: Duration = Duration::from_secs(3);

impl Common {
    /// Where the store is, by file, environment and flags. The rest of the file is not looked
    /// at: a producer need not have the programs that workers run.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub(crate) fn store(&self) -> Result<Store, Failure> {
        Ok(Config::load_store(self.config.as_deref(), &self.layers())?)
    }

    /// Connects to a store that must be there, to look at it or to change what it has.
    ///
    /// # Errors
    /// What is wrong with the settings or the store.
    pub(crate) async fn connect(&self) -> Result<Queue, Failure> {
        self.store_that_is_there()?.connect().await
    }

    /// As [`Self::connect`], through times in which the store does not answer, for at most `patience`, but long
    /// enough for one that is there: who waits for no time wants a look.
    ///
    /// # Errors
    /// What is wrong with the settings or the store, or that it was away for so long.
    pub(crate) async fn connect_to_follow(
        &self,
        patience: Option<Duration>,
    ) -> Result<Queue, Failure> {
        let store = self.store_that_is_there()?;
        let (mut away, mut waits) = (Away::default(), Waits::default());
        let connected = async {
            loop {
                match store.open().await? {
                    Err(error) if error.is_retryable() => away.tell(&error),
                    opened => return opened.map_err(|e| store.failure(e)),
                }
                waits.next().await;
            }
        };
        match patience {
            None => connected.await,
            Some(patience) => {
                timeout(patience.max(CONNECT_MIN), connected).await.unwrap_or_else(|_| {
                    Err(Failure::new(Exit::TimedOut, "the store did not answer in this time"))
                })
            }
        }
    }

    /// # Errors
    /// What is wrong with the settings, or that there is no such file.
    fn store_that_is_there(&self) -> Result<Store, Failure> {
        let store = self.store()?;
        let Some(file) = store.missing_file()? else { return Ok(store) };
        let message = format!("{}: there is no such database", file.display());
        Err(Failure::new(Exit::NotFound, message).advice(WHO_MAKES_IT))
    }

    /// Connects to the store, which is made if it is a file that is not there yet.
    ///
    /// # Errors
    /// What is wrong with the settings or the store.
    pub(crate) async fn connect_to_write(&self) -> Result<Queue, Failure> {
        self.store()?.connect().await
    }
}

impl Store {
    /// # Errors
    /// What is wrong with the store.
    async fn connect(&self) -> Result<Queue, Failure> {
        self.open().await?.map_err(|e| self.failure(e))
    }

    /// Opens it, or tells the store's own reason why it cannot be.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub(super) async fn open(&self) -> Result<Result<Queue, Error>, Failure> {
        let url = self.url()?;
        if url.is_memory() {
            let message = "memory:// is a store of one process, which nobody else sees";
            return Err(Failure::usage(message).advice("name another one, such as sqlite:queue.db"));
        }
        Ok(Queue::connect_with(url.reveal(), self.options()).await)
    }

    pub(super) fn failure(&self, error: Error) -> Failure {
        let failure = Failure::from(error);
        match &self.url {
            Some(url) => failure.context(url),
            None => failure,
        }
    }

    /// # Errors
    /// If nobody said where the store is.
    pub(crate) fn url(&self) -> Result<&crate::config::StoreUrl, Failure> {
        self.url.as_ref().ok_or_else(|| {
            Failure::usage(
                "which store? Say --url sqlite:queue.db or --url redis://HOST:PORT, set \
                 WORKERD_URL, or name a file that has store.url with -c",
            )
        })
    }

    /// The file of the store, if it is one that is not there.
    ///
    /// # Errors
    /// If nobody said where the store is.
    pub(crate) fn missing_file(&self) -> Result<Option<PathBuf>, Failure> {
        let file = self.options().file(self.url()?.reveal());
        Ok(file.filter(|file| !file.exists()))
    }

    pub(crate) fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::default().namespace(self.namespace.clone());
        options.durability = self.durability;
        options
    }
}
