//! The suite that every backend must pass, as code: the same cases run on the memory backend and
//! on each real one.
//!
//! A backend's test file implements [`Harness`] and calls the two macros:
//!
//! ```ignore
//! queue_core::conformance!(MyHarness::new());   // one #[tokio::test] per case
//! queue_core::model_test!(MyHarness::new());    // random sequences, compared with the model
//! ```

pub mod model;

use crate::{Backend, Timestamp};

/// How the suite gets a store and moves its clock.
pub trait Harness: Send + Sync {
    /// The backend under test.
    type Backend: Backend;

    /// An empty store whose clock stands at `now` (far in the future of the real time) until
    /// [`Harness::set_clock`] moves it. Stores keep the latest time they have used and never go
    /// back, so writing a future time into that place stops their clock there.
    fn fresh(&self, now: Timestamp) -> impl Future<Output = Self::Backend> + Send;

    /// A second connection to the store of `backend`, as another process would have it; `None` if
    /// the store lives inside one process.
    fn reconnect(
        &self,
        backend: &Self::Backend,
    ) -> impl Future<Output = Option<Self::Backend>> + Send;

    /// Sets the store's clock to `now`, which is later than before.
    fn set_clock(
        &self,
        backend: &Self::Backend,
        now: Timestamp,
    ) -> impl Future<Output = ()> + Send;
}

/// Makes a test of the model test for a harness.
#[macro_export]
macro_rules! model_test {
    ($harness:expr) => {
        #[test]
        fn agrees_with_the_model() {
            $crate::conformance::model::check(&$harness);
        }
    };
}
