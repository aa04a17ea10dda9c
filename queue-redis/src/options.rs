//! How to use a server.

use std::time::Duration;

use queue_core::Namespace;

/// How a [`RedisBackend`](crate::RedisBackend) uses its server, besides the URL.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RedisOptions {
    /// Keeps the queues of different applications apart on one server. Default: `default`.
    pub namespace: Namespace,
    /// How long the server may take to answer before its connection counts as dead. Default 5 s.
    pub answer_within: Duration,
    /// How long an enqueue waits for its replicas, or for a disk that is not flushed at every
    /// write, before it answers [`Error::Unavailable`](queue_core::Error). Default 2 s.
    pub confirm_within: Duration,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            namespace: Namespace::default(),
            answer_within: Duration::from_secs(5),
            confirm_within: Duration::from_secs(2),
        }
    }
}

impl RedisOptions {
    /// Sets the namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
        self
    }

    /// Sets how long the server may take to answer. A busy server needs up to a second for a call
    /// of many megabytes.
    #[must_use]
    pub const fn answer_within(mut self, limit: Duration) -> Self {
        self.answer_within = limit;
        self
    }

    /// Sets how long an enqueue waits for its confirmation.
    #[must_use]
    pub const fn confirm_within(mut self, limit: Duration) -> Self {
        self.confirm_within = limit;
        self
    }
}
