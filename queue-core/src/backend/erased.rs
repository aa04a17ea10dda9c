//! The boxed twin of [`Backend`], so that a [`Queue`](crate::Queue) can hold any backend without
//! a type parameter. Sealed: implement [`Backend`], this comes with it.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::{
    Backend, CancelOutcome, CheckFinding, Claim, ClaimRequest, DeleteOutcome, Durability,
    EnqueueOutcome, Epoch, Interest, Lanes, ListRequest, LiveWorker, Maintained, Page, Placement,
    QuarantinedJob, QueueStats, RecoverOutcome, RenewRequest, Renewal, Report, Reported,
    RetryOutcome, RetryRequest, SettleReply, SettleRequest, Violation, Wake, WatchRequest, Watched,
    Woken, WorkerInfo,
};
use crate::{
    Error, JobId, JobRecord, JobState, LimitKey, LimitSettings, LimitStatus, LimitTarget, NewJob,
    QueueName, WorkerId, telemetry,
};

mod sealed {
    pub trait Sealed {}
    impl<B: super::Backend> Sealed for B {}
}

macro_rules! erased {
    ($($(#[$doc:meta])* $name:ident / $boxed:ident
        ($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        /// See [`Backend`]; each call is the one of the same name, with its future in a box.
        pub trait DynBackend: sealed::Sealed + Send + Sync {
            $(
                #[doc = concat!("[`Backend::", stringify!($name), "`].")]
                fn $boxed<'a>(&'a self $(, $argument: $type)*)
                    -> BoxFuture<'a, Result<$answer, Error>>;
            )*

            /// [`Backend::chunks_under_way`].
            fn bulk_chunks(&self) -> usize;
        }

        impl<B: Backend> DynBackend for B {
            $(
                fn $boxed<'a>(&'a self $(, $argument: $type)*)
                    -> BoxFuture<'a, Result<$answer, Error>> {
                    let call = Backend::$name(self $(, $argument)*);
                    Box::pin(timed(stringify!($name), call))
                }
            )*

            fn bulk_chunks(&self) -> usize {
                Backend::chunks_under_way(self)
            }
        }
    };
}

/// Measures a call. A wait is not one: it takes as long as there is nothing to do. A chunk of a bulk is an
/// enqueue.
async fn timed<T>(
    op: &'static str,
    call: impl Future<Output = Result<T, Error>> + Send,
) -> Result<T, Error> {
    let started_at = Instant::now();
    let answer = call.await;
    if !op.starts_with("wait") {
        let op = op.strip_suffix("_chunk").unwrap_or(op);
        telemetry::store_op(op, answer.as_ref().err(), started_at.elapsed());
    }
    answer
}

erased! {
    enqueue / enqueue_boxed(jobs: &'a [NewJob], durability: Durability)
        -> Vec<EnqueueOutcome>;
    enqueue_chunk / enqueue_chunk_boxed(jobs: &'a [NewJob], durability: Durability)
        -> Vec<EnqueueOutcome>;
    claim / claim_boxed(request: &'a ClaimRequest) -> Claim;
    wait_reconnected / wait_reconnected_boxed(seen: u64) -> u64;
    renew / renew_boxed(request: &'a RenewRequest) -> Vec<Renewal>;
    settle / settle_boxed(request: &'a SettleRequest) -> SettleReply;
    revoke_standing / revoke_standing_boxed(worker: &'a WorkerId) -> ();
    wait / wait_boxed(interest: &'a Interest, timeout: Duration) -> Wake;
    wait_and_claim / wait_and_claim_boxed(interest: &'a Interest, request: &'a ClaimRequest,
        revoked: oneshot::Receiver<()>, timeout: Duration) -> Woken;
    cancel / cancel_boxed(ids: &'a [JobId]) -> Vec<CancelOutcome>;
    get / get_boxed(ids: &'a [JobId]) -> Vec<Option<JobRecord>>;
    stats / stats_boxed() -> Vec<QueueStats>;
    maintain / maintain_boxed(budget: u32) -> Maintained;
    list / list_boxed(request: &'a ListRequest) -> Page;
    retry / retry_boxed(request: &'a RetryRequest) -> Vec<RetryOutcome>;
    delete / delete_boxed(jobs: &'a [(JobId, JobState)]) -> Vec<DeleteOutcome>;
    quarantined / quarantined_boxed(ids: &'a [JobId]) -> Vec<Option<QuarantinedJob>>;
    recover / recover_boxed(ids: &'a [JobId]) -> Vec<RecoverOutcome>;
    set_paused / set_paused_boxed(queue: &'a QueueName, paused: bool) -> bool;
    paused / paused_boxed() -> Vec<QueueName>;
    report / report_boxed(reports: &'a [Report]) -> Vec<Reported>;
    watch / watch_boxed(requests: &'a [WatchRequest]) -> Vec<Option<Watched>>;
    set_limit / set_limit_boxed(target: &'a LimitTarget, settings: Option<&'a LimitSettings>)
        -> bool;
    reset_limit / reset_limit_boxed(key: &'a LimitKey) -> bool;
    limits / limits_boxed() -> Vec<(LimitTarget, LimitSettings)>;
    limit_status / limit_status_boxed(keys: &'a [LimitKey]) -> Vec<LimitStatus>;
    announce / announce_boxed(worker: &'a WorkerInfo, believed_for: Duration) -> ();
    workers / workers_boxed() -> Vec<LiveWorker>;
    place / place_boxed(id: JobId) -> Placement;
    lanes / lanes_boxed(queue: &'a QueueName) -> Lanes;
    audit / audit_boxed(repair: bool) -> Vec<Violation>;
    other_epoch / other_epoch_boxed() -> Option<Epoch>;
    adopt / adopt_boxed(epoch: &'a Epoch) -> ();
    check / check_boxed() -> Vec<CheckFinding>;
}
