//! What runs a job: [`Executor`]s by kind, and typed handler functions that become executors.

mod context;
mod fail;
mod function;
mod reporter;

pub(crate) use context::CancelSignal;
pub use context::{CancelReason, Context, States};
pub(crate) use fail::Then;
pub use fail::{Fail, IntoFail, THROTTLE_MAX};
pub(crate) use function::FunctionExecutor;
pub use function::{FromContext, Handler, State};
pub(crate) use reporter::Reporter;

use futures_util::future::BoxFuture;

use crate::Payload;

/// Runs the jobs of a kind. Typed handlers become executors by
/// [`Worker::handle`](crate::Worker::handle); daemons write their own.
///
/// An attempt ends when the future is ready. The future is dropped without warning if the worker
/// has to stop at once, the attempt's time is over or its lease is lost and the executor did not
/// return soon after [`Context::cancelled`]; whatever it holds, such as a child process, must end
/// with it.
pub trait Executor: Send + Sync + 'static {
    /// Runs one attempt.
    ///
    /// # Errors
    /// [`Fail`] says what becomes of the job.
    fn run(&self, context: Context) -> impl Future<Output = Result<Option<Payload>, Fail>> + Send;
}

/// The boxed twin of [`Executor`].
pub(crate) trait DynExecutor: Send + Sync {
    fn run_boxed(&self, context: Context) -> BoxFuture<'_, Result<Option<Payload>, Fail>>;
}

impl<E: Executor> DynExecutor for E {
    fn run_boxed(&self, context: Context) -> BoxFuture<'_, Result<Option<Payload>, Fail>> {
        Box::pin(self.run(context))
    }
}
