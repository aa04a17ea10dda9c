//! How a store is opened.

use queue_core::Namespace;

/// What an acknowledged call survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Loss of power: the file is synced before a call is answered (`synchronous = FULL`), as far
    /// as the disk tells the truth about its own cache.
    #[default]
    Fsync,
    /// The end of the process, but not of the machine: a loss of power may take back the last
    /// commits, never a part of one (`synchronous = NORMAL`).
    Memory,
}

impl Durability {
    /// The value of `PRAGMA synchronous`.
    pub(crate) const fn synchronous(self) -> i64 {
        match self {
            Self::Fsync => 2,
            Self::Memory => 1,
        }
    }
}

/// Options of [`SqliteBackend::open`](crate::SqliteBackend::open).
///
/// ```
/// use queue_core::Namespace;
/// use queue_sqlite::{Durability, SqliteOptions};
///
/// let options = SqliteOptions::default()
///     .durability(Durability::Memory)
///     .namespace(Namespace::new("shop")?);
/// # Ok::<(), queue_core::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SqliteOptions {
    /// What an acknowledged call survives at least; an enqueue may ask for more. Default:
    /// [`Durability::Fsync`].
    pub durability: Durability,
    /// Whose jobs these are. The namespace `default` lives in the file that is named, any other
    /// in a file of its own beside it, `<file>.<namespace>`. Default: `default`.
    pub namespace: Namespace,
    /// The most bytes that jobs may take in the file. Enqueues that would need more are refused
    /// with [`StoreFull`](queue_core::Error::StoreFull); running jobs can be settled all the same.
    /// Default: as much as the disk has.
    pub max_bytes: Option<u64>,
}

impl SqliteOptions {
    /// Sets what an acknowledged call survives.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets the namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
        self
    }

    /// Sets the most bytes that jobs may take in the file.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }
}
