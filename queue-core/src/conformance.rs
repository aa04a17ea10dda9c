//! The suite that every backend must pass, as code: the same cases run on the memory backend and
//! on each real one.
//!
//! A backend's test file implements [`Harness`] and calls the two macros:
//!
//! ```ignore
//! queue_core::conformance!(MyHarness::new());   // one #[tokio::test] per case
//! queue_core::model_test!(MyHarness::new());    // random sequences, compared with the model
//! ```

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "this module is test code")]
#![expect(missing_docs, reason = "the cases are named after what they prove")]

pub mod cancel;
pub mod claim;
pub mod delay;
pub mod enqueue;
pub mod hold;
pub mod inspect;
pub mod keys;
pub mod lease;
pub mod limit;
pub mod list;
pub mod model;
pub mod operate;
pub mod report;
pub mod retention;
pub mod settle;
pub mod standing;
mod store;
pub mod wait;

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
    fn set_clock(&self, backend: &Self::Backend, now: Timestamp)
    -> impl Future<Output = ()> + Send;

    /// Everything that the store holds, as [`Harness::restore`] takes it; `None` (the default) if
    /// the harness cannot tell. The model test then never rolls the store back.
    fn snapshot(&self, backend: &Self::Backend) -> impl Future<Output = Option<Vec<u8>>> + Send {
        let _ = backend;
        async { None }
    }

    /// Makes the store hold what it held when the snapshot was taken, and nothing else: what a
    /// restart without the last writes does. Clients keep their connections.
    fn restore(&self, backend: &Self::Backend, snapshot: &[u8]) -> impl Future<Output = ()> + Send {
        let _ = (backend, snapshot);
        async {}
    }
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

/// Makes a test of every case for a harness.
#[macro_export]
macro_rules! conformance {
    ($harness:expr) => {
        $crate::conformance! { @cases $harness;
            enqueue: stores_what_was_submitted, keeps_every_field, same_id_is_one_job,
                same_id_other_payload_conflicts, racing_producers_make_one_job,
                duplicates_inside_a_batch_meet, a_large_batch_keeps_its_order;
            keys: a_key_finds_the_first_job, another_payload_conflicts, a_retry_keeps_its_key,
                dead_and_cancelled_jobs_free_their_key, racing_keys_make_one_job,
                a_dropped_record_frees_its_key, any_text_is_a_key;
            claim: first_in_first_out, priorities_are_strict, queues_are_asked_in_order,
                only_kinds_with_slots_are_given, lanes_take_turns, a_repeat_gives_the_same_jobs,
                racing_claims_share_nothing, an_expired_job_is_dead_not_run,
                fences_increase, a_repeat_extends_the_lease, racing_repeats_get_the_same_jobs,
                a_claim_that_stops_at_a_bound_says_so;
            lease: renewal_keeps_a_job, an_expired_lease_gives_the_job_to_another,
                a_crash_loop_ends_dead, a_stale_settle_changes_nothing,
                a_reaped_claim_cannot_be_renewed, racing_reapers_requeue_once,
                a_renewal_never_shortens;
            settle: a_result_is_kept, a_repeat_is_already_done, a_failure_waits_and_counts,
                the_last_failure_is_dead, released_jobs_go_first_and_keep_their_attempt,
                a_snooze_keeps_its_attempt, mixed_outcomes_of_many_claims_settle_together,
                an_unknown_job_is_gone, racing_settles_take_effect_once,
                a_settle_and_a_reaper_do_not_both_win, the_largest_of_everything_fits;
            delay: nothing_runs_before_its_time, due_jobs_run_in_the_order_of_their_times,
                the_next_due_time_is_told, many_due_at_once_are_all_run,
                no_time_is_too_far, maintenance_says_when_there_is_more;
            cancel: a_waiting_job_is_cancelled_at_once, a_running_job_is_asked,
                a_cancelled_job_whose_worker_died_is_not_retried, cancels_are_noops_when_late,
                a_cancelled_ready_job_does_not_disturb_its_lane;
            retention: records_are_dropped_after_their_time, only_so_many_records_are_kept,
                cancelled_records_push_out_only_each_other, zero_retention_keeps_nothing,
                an_expired_job_that_is_not_kept_leaves_nothing, dropping_stops_at_its_budget,
                a_budget_is_one_for_all_queues;
            hold: a_live_hold_ends_with_completion,
                a_hold_for_a_time_outlives_the_record_s_retention,
                a_hold_that_is_over_frees_the_key_before_maintenance,
                a_hold_for_a_time_lasts_while_the_job_is_live,
                a_replacement_takes_the_place_of_a_waiting_job, a_running_job_is_not_replaced,
                replacements_meet_inside_a_batch,
                a_replacement_that_is_due_earlier_wakes_a_sleeper;
            limit: a_concurrency_is_never_exceeded, jobs_without_keys_are_not_limited,
                a_claim_says_whether_its_keys_have_room_to_spare,
                a_lane_leaves_a_place_of_its_keys_free,
                the_exact_name_counts_before_its_class, a_worker_adds_keys_to_its_kinds,
                two_kinds_share_the_key_that_a_worker_adds, every_end_gives_the_place_back_once,
                a_lost_lease_gives_the_place_back, a_repeated_claim_takes_no_more_room,
                a_lower_limit_stops_nobody, settings_that_come_late_count_what_runs,
                a_repeat_knows_when_there_is_room,
                other_rates_count_from_their_beginning_on,
                another_rate_reaches_each_of_many_keys,
                a_rate_lets_so_many_start, an_expired_job_takes_no_token,
                a_job_waits_for_each_of_its_keys, a_lane_that_cannot_use_a_place_passes_it_on,
                a_blocked_lane_can_be_emptied_and_filled, queues_share_a_key,
                nothing_is_left_of_keys_that_are_gone, a_queue_takes_so_many_live_jobs,
                a_key_takes_so_many_live_jobs, an_existing_job_is_not_refused,
                a_job_that_is_run_again_is_not_refused,
                racing_producers_are_counted_exactly, a_breaker_opens_and_one_probe_closes_it,
                a_failed_probe_doubles_the_cool_down,
                a_shorter_cool_down_counts_for_a_breaker_that_is_open,
                a_probe_that_says_nothing_is_followed_by_another,
                only_the_provider_s_failures_count, a_throttled_key_is_closed_for_everyone,
                adapting_halves_and_grows, a_small_tenant_waits_for_one_turn_at_most,
                a_heavier_tenant_gets_more_of_each_turn,
                a_heavier_tenant_gets_more_turns_one_job_at_a_time, a_blocked_lane_keeps_its_place,
                blocked_lanes_keep_their_priority, many_blocked_lanes_come_back,
                claims_of_other_kinds_do_not_take_a_place,
                a_blocked_job_is_no_work_until_there_is_room, room_at_a_worker_s_own_key_wakes_it,
                room_is_told_to_each_of_many_queues,
                the_time_of_the_next_room_is_told, no_end_leaves_a_place_behind,
                a_reset_ends_a_pause, a_reset_closes_a_breaker, a_reset_ends_a_reduction,
                a_reset_wakes_who_waits;
            inspect: workers_are_believed_for_a_time, a_ready_job_has_a_place,
                a_blocked_lane_ahead_is_counted,
                a_cancelled_job_is_before_nobody,
                starts_are_counted_with_the_first_of_each_span,
                lanes_are_seen_whether_blocked_or_not,
                a_lane_says_how_long_its_first_job_could_have_run;
            list: each_state_lists_its_jobs, pages_give_every_job_once,
                more_jobs_than_a_page_holds_are_all_listed,
                filters_choose_queue_and_kind, ready_jobs_are_listed_as_they_will_run,
                a_foreign_cursor_is_refused, a_job_that_came_back_is_listed_once;
            operate: a_dead_job_can_be_run_again, counts_can_be_kept,
                completed_and_cancelled_jobs_can_be_run_again,
                what_is_not_finished_is_not_retried, a_retry_takes_its_key_back_or_is_refused,
                an_expired_job_is_not_retried, a_deleted_job_leaves_nothing,
                a_running_job_is_not_deleted, a_deleted_id_can_be_used_again,
                a_paused_queue_waits, a_pause_leaves_running_jobs_alone,
                paused_queues_are_listed_in_order, resuming_wakes_a_waiter_and_a_pause_does_not;
            report: progress_and_lines_can_be_watched, a_repeated_report_writes_nothing_twice,
                a_stale_report_changes_nothing, a_log_is_bounded,
                failures_and_lost_leases_are_remembered, a_history_is_bounded,
                a_throttled_job_keeps_its_attempt;
            wait: a_new_job_wakes_a_waiter, a_job_that_is_there_is_not_waited_for,
                an_earlier_job_wakes_a_sleeper, a_cancel_request_wakes_its_worker,
                a_dropped_wait_loses_no_job, a_dropped_wait_passes_its_wake_up_on,
                a_batch_wakes_as_many_waiters_as_it_needs,
                a_claim_that_leaves_a_kind_wakes_another, whatever_becomes_ready_wakes_a_waiter,
                jobs_of_another_kind_or_queue_are_no_work, a_cancel_before_the_wait_is_seen_by_it;
            standing: a_standing_claim_gets_the_job_that_ends_the_wait,
                standing_claims_share_a_batch,
                a_standing_claim_that_is_revoked_takes_nothing_afterwards,
                a_job_that_comes_as_a_claim_is_revoked_is_not_lost,
                a_dropped_wait_gives_back_what_its_claim_gets,
                a_standing_claim_ends_with_its_time,
                a_cancel_request_ends_a_wait_with_a_claim;
        }
    };
    (@cases $harness:expr; $($group:ident: $($case:ident),*;)*) => {
        $(mod $group {
            #[allow(unused_imports, reason = "the harness is named in the caller's scope")]
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::conformance::$group::$case(&$harness).await;
            })*
        })*
    };
}
