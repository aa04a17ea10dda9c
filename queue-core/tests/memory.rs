//! The memory backend under the conformance suite. The model test compares it with itself: that
//! finds nothing but steps that fail and audits that complain, and it keeps the test itself honest.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use queue_core::conformance::Harness;
use queue_core::{ManualClock, MemoryBackend, Timestamp};

#[derive(Debug, Default)]
struct MemoryHarness {
    clock: std::sync::Mutex<Option<Arc<ManualClock>>>,
}

impl Harness for MemoryHarness {
    type Backend = MemoryBackend;

    async fn fresh(&self, now: Timestamp) -> MemoryBackend {
        let clock = Arc::new(ManualClock::new(now));
        *self.clock.lock().unwrap() = Some(Arc::clone(&clock));
        MemoryBackend::with_clock(clock)
    }

    async fn reconnect(&self, backend: &MemoryBackend) -> Option<MemoryBackend> {
        Some(backend.clone())
    }

    async fn set_clock(&self, _: &MemoryBackend, now: Timestamp) {
        self.clock.lock().unwrap().as_ref().unwrap().set(now);
    }
}

queue_core::conformance!(MemoryHarness::default());
queue_core::model_test!(MemoryHarness::default());
