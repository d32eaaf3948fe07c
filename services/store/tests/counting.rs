//! One conformance suite for the port `Counters`, run on every backend and on the reference itself.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)] // a test binary may stop
mod counters;

/// Runs the whole suite on a backend, which is kept in a place of its own for each test.
macro_rules! counters_suite {
    ($backend:ident, $store:ty) => {
        mod $backend {
            use super::counters;

            counters_suite!($store: admission: all_or_nothing, a_limit_is_reached_exactly,
                the_first_rule_refuses, shadow_and_overage_never_refuse,
                single_requests_are_measured_alone, restricted_limits_count_what_they_cover,
                every_metric_is_counted, a_limit_of_nothing_refuses_use,
                the_largest_amounts_do_not_wrap, sums_beyond_64_bits_come_back, admissions_replay, refusals_are_decided_anew,
                a_request_is_one_question, a_dry_run_changes_nothing, a_base_is_taken_off,
                tenants_are_apart);
            counters_suite!($store: holds: usage_settles_a_hold, usage_above_the_hold_counts,
                usage_without_a_hold_counts, a_settlement_repeats_without_effect,
                a_release_gives_everything_back, a_hold_expires_by_itself, what_expired_makes_room,
                usage_after_the_end_counts, an_extension_is_granted_whole, less_is_always_granted,
                extensions_repeat_without_effect, an_extension_moves_the_end, a_void_gives_back,
                a_reprice_counts_the_difference, holds_survive_a_restart,
                a_crash_before_settlement_heals);
            counters_suite!($store: folding: a_cold_counter_is_named_and_seeded,
                only_cold_counters_are_named, changes_during_a_seed_count_once,
                what_a_seed_contains_does_not_count_again, the_call_and_the_sweeper_count_once,
                the_sweeper_does_not_pass_open_transactions, a_sweep_settles,
                a_batch_is_counted_in_order, too_much_waiting_makes_a_counter_cold,
                a_new_counter_has_the_holds, tools_count_in_the_budget_only,
                a_change_of_zone_makes_counters_cold, counters_equal_ledger);
            counters_suite!($store: windows: no_double_burst_at_a_boundary, sliding_windows_slide,
                retry_is_when_it_fits, days_and_months_end_in_the_zone,
                usage_is_charged_at_its_admission, usage_of_the_past_is_left_out,
                sessions_do_not_reset, the_clock_never_goes_back);

            #[test]
            fn no_overspend() {
                counters::hammer::no_overspend::<$store>();
            }

            #[test]
            fn random_steps_answer_as_the_reference() {
                counters::random::random_steps_answer_as_the_reference::<$store>();
            }
        }
    };
    ($store:ty: $part:ident: $($test:ident),+) => {
        $(
            #[tokio::test]
            async fn $test() {
                counters::$part::$test::<$store>().await;
            }
        )+
    };
}

counters_suite!(reference, crate::counters::reference::OnPaper);
counters_suite!(memory, crate::counters::memory::InMemory);
