//! The store that a command of the command line works on.

use queue::{Connect, ConnectOptions, Queue};

use super::Common;
use crate::config::{Config, Store};
use crate::exit::Failure;

impl Common {
    /// Where the store is, by file, environment and flags. The rest of the file is not looked
    /// at: a producer need not have the programs that workers run.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub(crate) fn store(&self) -> Result<Store, Failure> {
        Ok(Config::load_store(self.config.as_deref(), &self.layers())?)
    }

    /// Connects to the store.
    ///
    /// # Errors
    /// What is wrong with the settings or the store.
    pub(crate) async fn connect(&self) -> Result<Queue, Failure> {
        let store = self.store()?;
        let url = store.url()?;
        let queue = Queue::connect_with(url.reveal(), store.options()).await;
        queue.map_err(|e| Failure::from(e).context(url))
    }
}

impl Store {
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

    pub(crate) fn options(&self) -> ConnectOptions {
        ConnectOptions::default().namespace(self.namespace.clone()).durability(self.durability)
    }
}
