//! The server for tests itself.

// A test that cannot go on stops here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokenmeter_test_postgres::{Server, shared, sql};

/// Set in the process that is killed.
const VICTIM: &str = "TOKENMETER_TEST_POSTGRES_VICTIM";

/// Whether a process runs; one that ended and that nobody asked about has no words any more.
fn runs(id: u32) -> bool {
    fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|words| !words.is_empty())
}

#[test]
fn what_was_committed_outlives_a_crash_and_the_server_does_not_outlive_its_value() {
    let server = Server::start();
    let url = server.database("kept");
    sql(&url, "CREATE TABLE t (n int); INSERT INTO t VALUES (7)");
    let id = server.id();
    server.crash();
    assert!(!runs(id), "it stopped");
    server.start_again();
    assert_eq!(sql(&url, "SELECT n FROM t"), "7");
    assert!(server.log().contains("automatic recovery"));
    let id = server.id();
    drop(server);
    assert!(!runs(id), "it ended");
}

#[test]
fn it_is_as_durable_as_others_and_sorts_as_a_language_does() {
    let server = shared();
    let (one, other) = (server.database("same"), server.database("same"));
    assert_ne!(one, other);
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        assert_eq!(sql(&one, &format!("SHOW {setting}")), "on");
    }
    // By bytes, capitals come before small letters.
    let older = sql(
        &one,
        "SELECT current_setting('server_version_num')::int < 150000",
    ) == "t";
    assert!(older || sql(&one, "SELECT 'a' < 'B'") == "t");
}

#[test]
fn the_server_ends_with_a_process_that_is_killed() {
    if std::env::var_os(VICTIM).is_some() {
        let server = Server::start();
        println!("started {}", server.id());
        sleep(Duration::from_secs(60));
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_server_ends_with_a_process_that_is_killed"])
        .arg("--nocapture")
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let id = lines
        .map(Result::unwrap)
        .find_map(|line| line.split_once("started ")?.1.parse().ok());
    let id = id.expect("it tells its server's id");
    assert!(runs(id));
    victim.kill().unwrap();
    victim.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while runs(id) {
        assert!(Instant::now() < deadline, "the server still runs");
        sleep(Duration::from_millis(10));
    }
}
