//! The waits between attempts to reach a store.

use std::time::Duration;

/// The first and the longest, doubling between them.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that grow.
#[derive(Debug)]
pub(crate) struct Waits(Duration);

impl Default for Waits {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Waits {
    /// Waits once more, longer than the last time.
    pub(crate) async fn next(&mut self) {
        // Replicas that lost their store together do not come back together.
        tokio::time::sleep(self.0.mul_f64(0.5 + fastrand::f64())).await;
        self.0 = (self.0 * 2).min(LONGEST);
    }
}
