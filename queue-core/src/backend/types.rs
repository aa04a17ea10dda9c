//! What goes into and comes out of a [`Backend`](super::Backend).

mod check;
mod claim;
mod enqueue;
mod inspect;
mod list;
mod operate;
mod report;
mod settle;
mod upkeep;
mod wait;

pub use check::{CheckFinding, Verdict, Violation};
pub use claim::{Claim, ClaimRequest, KindSlots, Lease, RenewRequest, Renewal};
pub use enqueue::{Durability, EnqueueOutcome, Enqueued};
pub use inspect::{
    LaneSummary, Lanes, LiveWorker, PLACE_MAX, Place, Placement, WORKERS_MAX, WorkerInfo,
    WorkerKind,
};
pub use list::{Cursor, InvalidCursor, ListRequest, Page};
pub use operate::{
    CancelOutcome, DeleteOutcome, QuarantinedJob, RecoverOutcome, RetryOutcome, RetryRequest,
};
pub use report::{Report, Reported, WatchRequest, Watched};
pub use settle::{Outcome, SettleReply, SettleRequest, Settled, Settlement};
pub use upkeep::{Epoch, Maintained, QueueStats, StateCounts};
pub use wait::{Interest, KindLimits, Wake, Woken};
