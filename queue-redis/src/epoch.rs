//! The data that claims are made from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use queue_core::backend::Epoch;

/// The name of the data that this program knows: what it has opened, or adopted since. The script of
/// a claim compares it with what is there.
#[derive(Debug)]
pub(crate) struct Known(Mutex<Arc<Epoch>>);

impl Known {
    pub(crate) fn new(opened: Epoch) -> Self {
        Self(Mutex::new(Arc::new(opened)))
    }

    pub(crate) fn current(&self) -> Arc<Epoch> {
        self.lock().clone()
    }

    pub(crate) fn set(&self, epoch: Epoch) {
        *self.lock() = Arc::new(epoch);
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Epoch>> {
        // Each change is complete before anything can fail.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
