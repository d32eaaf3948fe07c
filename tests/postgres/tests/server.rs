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
    let server = Server::start();
    let (one, other) = (server.database("same"), server.database("same"));
    assert_ne!(one, other);
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        assert_eq!(sql(&one, &format!("SHOW {setting}")), "on");
    }
    // By bytes, capitals come before small letters.
    let version = sql(&one, "SHOW server_version_num");
    assert!(version < "150000".into() || sql(&one, "SELECT 'a' < 'B'") == "t");
}

/// This test binary again, which makes a database and is then killed: answers the database's URL and
/// the process id of its server.
fn killed(named: &str) -> (String, u32) {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_one_that_is_killed", "--nocapture"])
        .env(VICTIM, "1")
        .env("TOKENMETER_TEST_POSTGRES", named)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let url = lines
        .map(Result::unwrap)
        .find_map(|line| Some(line.split_once("made ")?.1.to_owned()));
    let url = url.expect("it tells the URL of its database");
    let server = sql(&url, "SELECT pg_read_file('postmaster.pid')");
    victim.kill().unwrap();
    victim.wait().unwrap();
    (url, server.lines().next().unwrap().parse().unwrap())
}

#[test]
fn the_one_that_is_killed() {
    if std::env::var_os(VICTIM).is_some() {
        println!("made {}", shared().database("victim"));
        sleep(Duration::from_secs(60));
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "waited for {what}");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_private_server_ends_with_a_process_that_is_killed() {
    let (_, server) = killed("");
    wait_until("the end of its server", || !runs(server));
}

#[test]
fn databases_on_a_server_of_others_go_with_a_process_that_is_killed() {
    let server = Server::start();
    let kept = server.database("kept");
    let (url, id) = killed(server.url());
    assert_eq!(id, server.id(), "it used the server that was named");
    let name = url.rsplit('/').next().unwrap();
    let there = format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'");
    wait_until("its database to go", || sql(&kept, &there) == "0");
}
