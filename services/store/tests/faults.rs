//! Every invariant's test turns red against a planted fault (design, section 4).

// Not `required-features`, with which `cargo test --test '*'` fails where the feature is off.
#![cfg(feature = "planted-faults")]
// A test binary has no outside, may stop, and runs a part of the suite only.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, dead_code)]

mod backends;
mod conformance;
mod counters;
mod nodes;

use backends::{
    open_postgres, open_sqlite, reopen_postgres, reopen_sqlite, stall_postgres, stall_sqlite,
};
use counters::memory::InMemory;
use tokenmeter_store::fault::{Planted, plant};
use tokenmeter_test_postgres::shared;

/// Runs a test with a fault planted, on a thread and a runtime of its own; it has to fail.
fn turns_red<F: Future<Output = ()>>(fault: Planted, test: impl FnOnce() -> F + Send + 'static) {
    plant(Some(fault));
    let outcome = std::thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(test());
    })
    .join();
    plant(None);
    assert!(
        outcome.is_err(),
        "{fault:?} was planted and nothing turned red"
    );
    println!("{fault:?}: red, as it should be");
}

/// The same, of a test that has a runtime of its own.
fn turns_red_alone(fault: Planted, test: impl FnOnce() + Send + 'static) {
    plant(Some(fault));
    let outcome = std::thread::spawn(test).join();
    plant(None);
    assert!(
        outcome.is_err(),
        "{fault:?} was planted and nothing turned red"
    );
    println!("{fault:?}: red, as it should be");
}

/// The invariants of writing on a backend, each against the faults that break it.
macro_rules! turn_red {
    ($open:path, $reopen:ident, $stall:ident) => {
        turns_red(Planted::RecordRetries, || async {
            let (ledger, _kept) = $open().await;
            conformance::exactly_once(&ledger).await;
        });
        turns_red(Planted::AnswerWithoutCommit, || async {
            let (ledger, kept) = $open().await;
            conformance::ack_is_durable(ledger, async || $reopen(&kept).await).await;
        });
        turns_red(Planted::ForgetTenant, || async {
            let (ledger, _kept) = $open().await;
            conformance::tenant_isolated(&ledger).await;
        });
        turns_red(Planted::EndlessQueue, || async {
            let (ledger, kept) = $open().await;
            let stall = $stall(&kept).await;
            conformance::bounded(ledger, stall).await;
        });
        for fault in [
            Planted::SkipTotals,
            Planted::SkipVoidTotals,
            Planted::DropUnsealed,
        ] {
            turns_red_alone(fault, || {
                conformance::model::totals_equal_the_reference_at_every_step($open);
            });
        }
        turns_red_alone(Planted::SkipWhatIsBehind, || {
            conformance::feed::feed_complete($open);
        });
        turns_red(Planted::RunEverywhere, || async {
            let (ledger, _kept) = $open().await;
            conformance::jobs::exactly_one_node_does_a_job(&ledger).await;
        });
        turns_red(Planted::ReopenPeriods, || async {
            let (ledger, _kept) = $open().await;
            conformance::periods::what_was_closed_never_changes(&ledger).await;
        });
        turns_red(Planted::ForgetAdjustments, || async {
            let (ledger, _kept) = $open().await;
            conformance::periods::a_purge_leaves_closed_months_as_they_were(&ledger).await;
        });
    };
}

/// The log with several nodes, against the faults that break it.
fn turn_the_log_of_many_nodes_red() {
    let database = |name| shared().database(name);
    let url = database("pass");
    turns_red(Planted::PassOpenTransactions, || async move {
        nodes::an_open_transaction_is_not_passed(&url).await;
    });
    let (url, elsewhere) = (database("wait"), database("elsewhere"));
    turns_red(Planted::WaitForAnybody, || async move {
        nodes::open_transactions_of_others_hold_up_nobody(&url, &elsewhere).await;
    });
    let url = database("deaf");
    turns_red(Planted::DeafToOthers, || async move {
        nodes::other_nodes_are_heard(&url).await;
    });
    turns_red(Planted::ForgetRestore, || async {
        nodes::servers::a_restored_dump_is_another_ledger().await;
    });
    turns_red(Planted::ForgetOpenings, || async {
        nodes::servers::positions_of_an_undone_past_are_told().await;
    });
}

/// The protocol of counters, against the faults that break it: one test of the rule, and what finds it by
/// chance.
fn turn_counters_red() {
    turns_red(Planted::HoldNothing, || {
        counters::admission::all_or_nothing::<InMemory>()
    });
    turns_red_alone(
        Planted::HoldNothing,
        counters::hammer::no_overspend::<InMemory>,
    );
    turns_red(Planted::ForgetHolds, || {
        counters::holds::holds_survive_a_restart::<InMemory>()
    });
    turns_red(Planted::CountTwice, || {
        counters::folding::counters_equal_ledger::<InMemory>()
    });
    for fault in [
        Planted::HoldNothing,
        Planted::ForgetHolds,
        Planted::CountTwice,
    ] {
        turns_red_alone(
            fault,
            counters::random::random_steps_answer_as_the_reference::<InMemory>,
        );
    }
}

// One test, because faults are planted in the whole process.
#[test]
fn invariants_turn_red_against_planted_faults() {
    // The failures are wanted; their backtraces are not.
    std::panic::set_hook(Box::new(|panic| eprintln!("  {panic}")));
    turn_counters_red();
    turn_red!(open_sqlite, reopen_sqlite, stall_sqlite);
    turn_red!(open_postgres, reopen_postgres, stall_postgres);
    turn_the_log_of_many_nodes_red();
}
