//! feed_complete on PostgreSQL, with several nodes on one database.

#![allow(unreachable_pub, clippy::unwrap_used, dead_code)] // a test binary has no outside, and may stop
mod conformance;
mod nodes;

use tokenmeter_test_postgres::shared;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feed_complete_with_three_nodes() {
    nodes::three_nodes_write_one_log(&shared().database("three")).await;
}

#[tokio::test]
async fn an_open_transaction_is_not_passed() {
    nodes::an_open_transaction_is_not_passed(&shared().database("open")).await;
}

#[tokio::test]
async fn a_seed_says_that_it_lacks_what_is_open() {
    nodes::a_seed_says_that_it_lacks_what_is_open(&shared().database("seed")).await;
}

#[tokio::test]
async fn open_transactions_of_others_hold_up_nobody() {
    let (here, elsewhere) = (shared().database("here"), shared().database("elsewhere"));
    nodes::open_transactions_of_others_hold_up_nobody(&here, &elsewhere).await;
}

#[tokio::test]
async fn other_nodes_are_heard() {
    nodes::other_nodes_are_heard(&shared().database("heard")).await;
}

#[tokio::test]
async fn positions_of_now_cover_what_was_acknowledged() {
    nodes::positions_of_now_cover_what_was_acknowledged(&shared().database("now")).await;
}

#[tokio::test]
async fn a_crash_of_the_server_loses_nothing() {
    nodes::servers::a_crash_of_the_server_loses_nothing().await;
}

#[tokio::test]
async fn a_restored_dump_is_another_ledger() {
    nodes::servers::a_restored_dump_is_another_ledger().await;
}

#[tokio::test]
async fn a_dump_restored_over_its_own_database_is_another_ledger() {
    let (here, copy) = (shared().database("over"), shared().database("kept"));
    nodes::servers::a_dump_restored_over_its_own_database_is_another_ledger(&here, &copy).await;
}

#[tokio::test]
async fn another_database_is_not_written_to() {
    let database = |name| shared().database(name);
    let (here, aside, copy) = (database("moved"), database("aside"), database("copy"));
    nodes::servers::another_database_is_not_written_to(&here, &aside, &copy).await;
}

#[tokio::test]
async fn positions_of_an_undone_past_are_told() {
    nodes::servers::positions_of_an_undone_past_are_told().await;
}
