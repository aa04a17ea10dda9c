//! Turns a panic of a handler into the text of a failure.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::sync::Once;

use futures_util::FutureExt;

thread_local! {
    /// Where the last panic of this thread happened, with its backtrace if those are enabled.
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `future`; a panic inside is an `Err` with its message, place and, if `RUST_BACKTRACE` is
/// set, its backtrace.
pub(super) async fn caught<F: Future>(future: F) -> Result<F::Output, String> {
    remember_places();
    AssertUnwindSafe(future).catch_unwind().await.map_err(|panic| describe(panic.as_ref()))
}

/// The same for what does not wait.
pub(super) fn caught_now<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    remember_places();
    std::panic::catch_unwind(AssertUnwindSafe(call)).map_err(|panic| describe(panic.as_ref()))
}

/// Adds to the process's panic hook, once; the hook that was there goes on doing what it did.
fn remember_places() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(|at| format!(" at {at}")).unwrap_or_default();
            let backtrace = Backtrace::capture();
            let trace = match backtrace.status() {
                BacktraceStatus::Captured => format!("\n{backtrace}"),
                _ => String::new(),
            };
            LAST.with(|last| *last.borrow_mut() = Some(place + &trace));
            previous(info);
        }));
    });
}

fn describe(panic: &(dyn Any + Send)) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is not text".to_owned());
    let place = LAST.with(|last| last.borrow_mut().take()).unwrap_or_default();
    format!("panicked: {message}{place}")
}
