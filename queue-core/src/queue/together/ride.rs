//! A call that its caller carries himself, until somebody else depends on it.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Context;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

type Call = BoxFuture<'static, ()>;

/// Made before its call, so that others know it from the beginning.
pub(super) struct Ride {
    runtime: Handle,
    state: Mutex<State>,
}

enum State {
    /// Between two polls of the caller.
    Resting(Call),
    /// In the hands of the caller.
    Polled,
    /// The same, and it goes to a task afterwards.
    Wanted,
    /// It is over, or has a task of its own.
    Gone,
}

impl Ride {
    pub(super) const fn new(runtime: Handle) -> Self {
        Self { runtime, state: Mutex::new(State::Polled) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with the call, unless a task does: in the caller's turn, which spares the answer the
    /// way over a task. `call` is what to poll, the first time.
    pub(super) fn poll(&self, call: Option<Call>, context: &mut Context<'_>) {
        let Some(mut call) = call.or_else(|| self.take_up()) else { return };
        // Without the lock: whoever comes meanwhile must not wait.
        let is_over = call.as_mut().poll(context).is_ready();
        let mut state = self.lock();
        let is_wanted = matches!(&*state, State::Wanted);
        if !is_over && !is_wanted {
            *state = State::Resting(call);
            return;
        }
        *state = State::Gone;
        drop(state);
        if !is_over {
            self.runtime.spawn(call);
        }
    }

    fn take_up(&self) -> Option<Call> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Polled) {
            State::Resting(call) => Some(call),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Gives the call to a task of its own: from now on it does not depend on its caller.
    pub(super) fn hand_over(&self) {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Gone) {
            State::Resting(call) => {
                drop(state);
                self.runtime.spawn(call);
            }
            State::Polled | State::Wanted => *state = State::Wanted,
            State::Gone => {}
        }
    }
}

impl fmt::Debug for Ride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ride").finish_non_exhaustive()
    }
}
