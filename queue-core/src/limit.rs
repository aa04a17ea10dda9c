//! Limits: what a provider or a tenant may have running, and how often jobs may start.
//!
//! A *limit key* is a name such as `provider:openai` or `tenant:acme`. A job carries up to
//! [`LIMIT_KEYS_MAX`] of them; a worker may add more for the kinds it runs
//! ([`KindSlots::limits`](crate::KindSlots::limits)), so that producers need not know which
//! provider a kind calls. What a key allows is said by its [`LimitSettings`], which live in the
//! store and may be changed at any time: those of exactly this key, else those of its whole class
//! (`tenant:*`), else nothing is limited.
//!
//! A job starts only when every one of its keys has [`Room`]. The rules behind that are pure
//! functions of the settings, the key's [`LimitState`] and the store's time, written out once in
//! [`LimitState`]; every store follows them.

mod breaker;
mod key;
mod rate;
mod room;
mod rooms;
mod settings;
mod state;
mod status;
mod turn;

pub use breaker::{BreakerPhase, BreakerState, COOLDOWN_GROWTH_MAX, OpenState};
pub use key::{
    InvalidLimitKey, LIMIT_KEY_MAX_BYTES, LIMIT_KEYS_MAX, LimitKey, LimitKeys, LimitTarget,
    QUEUE_CLASS,
};
pub use rate::Rate;
pub use room::{Blocked, Room};
pub use rooms::{KeyRoom, Rooms, given_at_most};
pub use settings::{
    Adaptive, Breaker, InvalidLimit, LIMIT_FAILURES_MAX, LIMIT_TIME_MAX, LimitSettings, WEIGHT_MAX,
};
pub use state::{AdaptiveState, Ending, FORGOTTEN_AFTER, LimitState};
pub use status::{DRIFT_LOOKS_MAX, HOLDERS_SHOWN_MAX, LimitStatus, SpanStarts, StartRate};
pub use turn::is_turn_over;
