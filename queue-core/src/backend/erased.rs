//! The boxed twin of [`Backend`], so that a [`Queue`](crate::Queue) can hold any backend without
//! a type parameter. Sealed: implement [`Backend`], this comes with it.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{
    Backend, CancelOutcome, CheckFinding, Claim, ClaimRequest, EnqueueOutcome, Interest,
    Maintained, QueueStats, RenewRequest, Renewal, SettleReply, SettleRequest, Violation, Wake,
};
use crate::{Error, JobId, JobRecord, NewJob};

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
        }

        impl<B: Backend> DynBackend for B {
            $(
                fn $boxed<'a>(&'a self $(, $argument: $type)*)
                    -> BoxFuture<'a, Result<$answer, Error>> {
                    Box::pin(Backend::$name(self $(, $argument)*))
                }
            )*
        }
    };
}

erased! {
    enqueue / enqueue_boxed(jobs: &'a [NewJob]) -> Vec<EnqueueOutcome>;
    claim / claim_boxed(request: &'a ClaimRequest) -> Claim;
    renew / renew_boxed(request: &'a RenewRequest) -> Vec<Renewal>;
    settle / settle_boxed(request: &'a SettleRequest) -> SettleReply;
    wait / wait_boxed(interest: &'a Interest, timeout: Duration) -> Wake;
    cancel / cancel_boxed(ids: &'a [JobId]) -> Vec<CancelOutcome>;
    get / get_boxed(ids: &'a [JobId]) -> Vec<Option<JobRecord>>;
    stats / stats_boxed() -> Vec<QueueStats>;
    maintain / maintain_boxed(budget: u32) -> Maintained;
    audit / audit_boxed() -> Vec<Violation>;
    check / check_boxed() -> Vec<CheckFinding>;
}
