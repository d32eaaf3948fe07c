//! One conformance suite for the port `Ledger`, run on every backend.

#![allow(unreachable_pub, clippy::unwrap_used)] // a test binary has no outside, and may stop
mod backends;
mod conformance;

/// Runs the whole suite on a backend; `open` makes a fresh, empty ledger and
/// what keeps it alive, `reopen` opens it again, `stall` holds its writer up until dropped, `select`
/// reads with SQL, `execute` writes with it.
macro_rules! ledger_suite {
    ($backend:ident, $open:path, $reopen:ident, $stall:ident, $select:ident, $execute:ident) => {
        mod $backend {
            use super::conformance;

            #[tokio::test]
            async fn exactly_once() {
                let (ledger, _kept) = $open().await;
                conformance::exactly_once(&ledger).await;
            }

            #[tokio::test]
            async fn tenant_isolated() {
                let (ledger, _kept) = $open().await;
                conformance::tenant_isolated(&ledger).await;
            }

            #[tokio::test]
            async fn events_read_back_as_recorded() {
                let (ledger, _kept) = $open().await;
                conformance::events_read_back_as_recorded(&ledger).await;
            }

            #[tokio::test]
            async fn lists_page_without_gap_or_repeat() {
                let (ledger, _kept) = $open().await;
                conformance::lists_page_without_gap_or_repeat(&ledger).await;
            }

            #[tokio::test]
            async fn one_bad_item_never_fails_the_others() {
                let (ledger, _kept) = $open().await;
                conformance::one_bad_item_never_fails_the_others(&ledger).await;
            }

            #[tokio::test]
            async fn a_void_takes_an_event_out_of_every_figure() {
                let (ledger, _kept) = $open().await;
                conformance::a_void_takes_an_event_out_of_every_figure(&ledger).await;
            }

            #[tokio::test]
            async fn a_reprice_step_starts_where_its_run_stands() {
                let (ledger, _kept) = $open().await;
                conformance::a_reprice_step_starts_where_its_run_stands(&ledger).await;
            }

            #[tokio::test]
            async fn reprices_keep_events_together() {
                let (ledger, _kept) = $open().await;
                conformance::reprices_keep_events_together(&ledger).await;
            }

            #[tokio::test]
            async fn stretches_have_so_many_lines() {
                let (ledger, _kept) = $open().await;
                conformance::stretches::stretches_have_so_many_lines(&ledger).await;
            }

            #[tokio::test]
            async fn a_reservation_is_settled_once() {
                let (ledger, _kept) = $open().await;
                conformance::settlements::a_reservation_is_settled_once(&ledger).await;
            }

            #[tokio::test]
            async fn of_one_batch_the_first_settles() {
                let (ledger, _kept) = $open().await;
                conformance::settlements::of_one_batch_the_first_settles(&ledger).await;
            }

            #[tokio::test]
            async fn racing_events_settle_once() {
                let (ledger, _kept) = $open().await;
                conformance::settlements::racing_events_settle_once(std::sync::Arc::new(ledger))
                    .await;
            }

            #[tokio::test]
            async fn api_keys_read_back_as_recorded() {
                let (ledger, _kept) = $open().await;
                conformance::settlements::api_keys_read_back_as_recorded(&ledger).await;
            }

            #[tokio::test]
            async fn seeds_equal_the_events() {
                let (ledger, _kept) = $open().await;
                conformance::seeds::seeds_equal_the_events(&ledger).await;
            }

            #[tokio::test]
            async fn seeds_of_long_sessions_outlive_their_events() {
                let (ledger, _kept) = $open().await;
                conformance::seeds::seeds_of_long_sessions_outlive_their_events(&ledger).await;
            }

            #[tokio::test]
            async fn items_stand_once() {
                let (ledger, _kept) = $open().await;
                conformance::items::items_stand_once(&ledger).await;
            }

            #[tokio::test]
            async fn a_tool_ends_once() {
                let (ledger, _kept) = $open().await;
                conformance::items::a_tool_ends_once(&ledger).await;
            }

            #[tokio::test]
            async fn prices_keep_their_versions() {
                let (ledger, _kept) = $open().await;
                conformance::prices_keep_their_versions(&ledger).await;
            }

            #[tokio::test]
            async fn prices_set_by_name_are_set_once() {
                let (ledger, _kept) = $open().await;
                conformance::prices_set_by_name_are_set_once(&ledger).await;
            }

            #[tokio::test]
            async fn usage_by_model_is_the_sum_of_its_lines() {
                let (ledger, _kept) = $open().await;
                conformance::reports::usage_by_model_is_the_sum_of_its_lines(&ledger).await;
            }

            #[tokio::test]
            async fn days_and_months_are_those_of_the_zone() {
                let (ledger, _kept) = $open().await;
                conformance::reports::days_and_months_are_those_of_the_zone(&ledger).await;
            }

            #[tokio::test]
            async fn sessions_page_as_of_their_first_page() {
                let (ledger, _kept) = $open().await;
                conformance::reports::sessions_page_as_of_their_first_page(&ledger).await;
            }

            #[tokio::test]
            async fn tools_page_as_of_their_first_page() {
                let (ledger, _kept) = $open().await;
                conformance::reports::tools_page_as_of_their_first_page(&ledger).await;
            }

            #[tokio::test]
            async fn ends_move_no_tool_between_pages() {
                let (ledger, _kept) = $open().await;
                conformance::reports::ends_move_no_tool_between_pages(&ledger).await;
            }

            #[tokio::test]
            async fn messages_stand_in_sequence() {
                let (ledger, _kept) = $open().await;
                conformance::reports::messages_stand_in_sequence(&ledger).await;
            }

            #[tokio::test]
            async fn views_equal_the_answers() {
                let (ledger, kept) = $open().await;
                let select = async |sql| super::$select(&kept, sql).await;
                conformance::reports::views_equal_the_answers(&ledger, select).await;
            }

            #[tokio::test]
            async fn a_purge_changes_no_total() {
                let (ledger, _kept) = $open().await;
                conformance::retention::a_purge_changes_no_total(&ledger).await;
            }

            #[tokio::test]
            async fn what_is_sealed_is_not_accepted_again() {
                let (ledger, _kept) = $open().await;
                conformance::retention::what_is_sealed_is_not_accepted_again(&ledger).await;
            }

            #[tokio::test]
            async fn ragged_edges_that_are_sealed_are_told() {
                let (ledger, _kept) = $open().await;
                conformance::retention::ragged_edges_that_are_sealed_are_told(&ledger).await;
            }

            #[tokio::test]
            async fn items_are_dropped_with_their_month() {
                let (ledger, _kept) = $open().await;
                conformance::retention::items_are_dropped_with_their_month(&ledger).await;
            }

            #[tokio::test]
            async fn a_purge_in_mid_load_keeps_every_total() {
                let (ledger, _kept) = $open().await;
                conformance::retention::a_purge_in_mid_load_keeps_every_total(ledger).await;
            }

            #[tokio::test]
            async fn small_drift_is_corrected() {
                let (ledger, kept) = $open().await;
                let execute = async |sql| super::$execute(&kept, sql).await;
                conformance::reconcile::small_drift_is_corrected(&ledger, execute).await;
            }

            #[tokio::test]
            async fn large_drift_is_flagged() {
                let (ledger, kept) = $open().await;
                let execute = async |sql| super::$execute(&kept, sql).await;
                conformance::reconcile::large_drift_is_flagged(&ledger, execute).await;
            }

            #[tokio::test]
            async fn missing_and_superfluous_totals_are_drift() {
                let (ledger, kept) = $open().await;
                let execute = async |sql| super::$execute(&kept, sql).await;
                conformance::reconcile::missing_and_superfluous_totals_are_drift(&ledger, execute)
                    .await;
            }

            #[tokio::test]
            async fn racing_runs_correct_once() {
                let (ledger, kept) = $open().await;
                let execute = async |sql| super::$execute(&kept, sql).await;
                conformance::reconcile::racing_runs_correct_once(ledger, execute).await;
            }

            #[tokio::test]
            async fn racing_writers_record_once() {
                let (ledger, _kept) = $open().await;
                conformance::racing_writers_record_once(ledger).await;
            }

            #[tokio::test]
            async fn ack_is_durable() {
                let (ledger, kept) = $open().await;
                conformance::ack_is_durable(ledger, async || super::$reopen(&kept).await).await;
            }

            #[tokio::test]
            async fn bounded() {
                let (ledger, kept) = $open().await;
                let stall = super::$stall(&kept).await;
                conformance::bounded(ledger, stall).await;
            }

            #[tokio::test]
            async fn the_log_folds_to_the_totals() {
                let (ledger, _kept) = $open().await;
                conformance::feed::the_log_folds_to_the_totals(&ledger).await;
            }

            #[test]
            fn feed_complete() {
                conformance::feed::feed_complete(|| $open());
            }

            #[tokio::test]
            async fn those_behind_do_not_hold_up_the_one_at_the_end() {
                let (ledger, _kept) = $open().await;
                conformance::feed::those_behind_do_not_hold_up_the_one_at_the_end(ledger).await;
            }

            #[tokio::test]
            async fn a_commit_touches_the_tenants_in_it() {
                let (ledger, kept) = $open().await;
                let other = async || super::$reopen(&kept).await;
                conformance::idle::a_commit_touches_the_tenants_in_it(&ledger, other).await;
            }

            #[tokio::test]
            async fn followers_of_idle_tenants_miss_nothing() {
                let (ledger, _kept) = $open().await;
                conformance::idle::followers_of_idle_tenants_miss_nothing(ledger).await;
            }

            #[tokio::test]
            async fn exactly_one_node_does_a_job() {
                let (ledger, _kept) = $open().await;
                conformance::jobs::exactly_one_node_does_a_job(&ledger).await;
            }

            #[tokio::test]
            async fn who_lost_a_lease_is_told() {
                let (ledger, _kept) = $open().await;
                conformance::jobs::who_lost_a_lease_is_told(&ledger).await;
            }

            #[tokio::test]
            async fn a_job_that_failed_waits_for_all_nodes() {
                let (ledger, _kept) = $open().await;
                conformance::jobs::a_job_that_failed_waits_for_all_nodes(&ledger).await;
            }

            #[tokio::test]
            async fn tenants_page_in_order() {
                let (ledger, _kept) = $open().await;
                conformance::jobs::tenants_page_in_order(&ledger).await;
            }

            #[tokio::test]
            async fn a_month_is_closed_once() {
                let (ledger, _kept) = $open().await;
                conformance::periods::a_month_is_closed_once(&ledger).await;
            }

            #[tokio::test]
            async fn racing_rollovers_close_once() {
                let (ledger, _kept) = $open().await;
                conformance::periods::racing_rollovers_close_once(&ledger).await;
            }

            #[tokio::test]
            async fn what_was_closed_never_changes() {
                let (ledger, _kept) = $open().await;
                conformance::periods::what_was_closed_never_changes(&ledger).await;
            }

            #[tokio::test]
            async fn settled_periods_answer_as_before() {
                let (ledger, _kept) = $open().await;
                conformance::periods::settled_periods_answer_as_before(&ledger).await;
            }

            #[tokio::test]
            async fn periods_page_newest_first() {
                let (ledger, _kept) = $open().await;
                conformance::periods::periods_page_newest_first(&ledger).await;
            }

            #[tokio::test]
            async fn a_purge_leaves_closed_months_as_they_were() {
                let (ledger, _kept) = $open().await;
                conformance::periods::a_purge_leaves_closed_months_as_they_were(&ledger).await;
            }

            #[tokio::test]
            async fn adjustments_are_bounded() {
                let (ledger, _kept) = $open().await;
                conformance::periods::adjustments_are_bounded(&ledger).await;
            }

            #[tokio::test]
            async fn a_new_ledger_has_the_shipped_profiles() {
                let (ledger, _kept) = $open().await;
                conformance::limits::a_new_ledger_has_the_shipped_profiles(&ledger).await;
            }

            #[tokio::test]
            async fn profiles_are_created_changed_and_deleted() {
                let (ledger, _kept) = $open().await;
                conformance::limits::profiles_are_created_changed_and_deleted(&ledger).await;
            }

            #[tokio::test]
            async fn shipped_profiles_are_a_tenants_own_once_changed() {
                let (ledger, _kept) = $open().await;
                conformance::limits::shipped_profiles_are_a_tenants_own_once_changed(&ledger).await;
            }

            #[tokio::test]
            async fn a_profile_in_use_stays() {
                let (ledger, _kept) = $open().await;
                conformance::limits::a_profile_in_use_stays(&ledger).await;
            }

            #[tokio::test]
            async fn subjects_have_what_was_set() {
                let (ledger, _kept) = $open().await;
                conformance::limits::subjects_have_what_was_set(&ledger).await;
            }

            #[tokio::test]
            async fn assignments_page_in_order() {
                let (ledger, _kept) = $open().await;
                conformance::limits::assignments_page_in_order(&ledger).await;
            }

            #[tokio::test]
            async fn settings_are_replaced_as_a_whole() {
                let (ledger, _kept) = $open().await;
                conformance::limits::settings_are_replaced_as_a_whole(&ledger).await;
            }

            #[tokio::test]
            async fn a_change_is_made_once() {
                let (ledger, _kept) = $open().await;
                conformance::limits::a_change_is_made_once(&ledger).await;
            }

            #[tokio::test]
            async fn racing_changes_have_versions_of_their_own() {
                let (ledger, _kept) = $open().await;
                conformance::limits::racing_changes_have_versions_of_their_own(&ledger).await;
            }

            #[tokio::test]
            async fn a_budget_counts_from_its_last_reset() {
                let (ledger, _kept) = $open().await;
                conformance::limits::uses::a_budget_counts_from_its_last_reset(&ledger).await;
            }

            #[tokio::test]
            async fn hits_of_a_second_add_up() {
                let (ledger, _kept) = $open().await;
                conformance::limits::uses::hits_of_a_second_add_up(&ledger).await;
            }

            #[tokio::test]
            async fn overshoots_stand_as_first_told() {
                let (ledger, _kept) = $open().await;
                conformance::limits::uses::overshoots_stand_as_first_told(&ledger).await;
            }

            #[tokio::test]
            async fn hits_and_overshoots_go_with_their_month() {
                let (ledger, _kept) = $open().await;
                conformance::limits::uses::hits_and_overshoots_go_with_their_month(&ledger).await;
            }

            #[tokio::test]
            async fn profiles_are_bounded() {
                let (ledger, kept) = $open().await;
                let execute = async |sql| super::$execute(&kept, sql).await;
                conformance::limits::profiles_are_bounded(&ledger, execute).await;
            }

            #[test]
            fn totals_equal_the_reference_at_every_step() {
                conformance::model::totals_equal_the_reference_at_every_step(|| $open());
            }
        }
    };
}

ledger_suite!(
    sqlite,
    super::open_sqlite,
    reopen_sqlite,
    stall_sqlite,
    select_sqlite,
    execute_sqlite
);
ledger_suite!(
    postgres,
    super::open_postgres,
    reopen_postgres,
    stall_postgres,
    select_postgres,
    execute_postgres
);

use backends::{
    execute_postgres, execute_sqlite, open_postgres, open_sqlite, reopen_postgres, reopen_sqlite,
    select_postgres, select_sqlite, stall_postgres, stall_sqlite,
};
