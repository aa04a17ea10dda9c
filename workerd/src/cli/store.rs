//! The store that a command of the command line works on.

use std::path::PathBuf;

use queue::{Connect, ConnectOptions, Queue};

use super::Common;
use crate::config::{Config, Store};
use crate::exit::{Exit, Failure};

/// What makes a database.
pub(super) const WHO_MAKES_IT: &str =
    "the first workerd run, enqueue, limit set or queue pause makes it";

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
        let store = self.store()?;
        if let Some(file) = store.missing_file()? {
            let message = format!("{}: there is no such database", file.display());
            let failure = Failure::new(Exit::NotFound, message);
            return Err(failure.advice(WHO_MAKES_IT));
        }
        store.connect().await
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
        let url = self.url()?;
        if url.is_memory() {
            let message = "memory:// is a store of one process, which nobody else sees";
            return Err(Failure::usage(message).advice("name another one, such as sqlite:queue.db"));
        }
        let queue = Queue::connect_with(url.reveal(), self.options()).await;
        queue.map_err(|e| Failure::from(e).context(url))
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
