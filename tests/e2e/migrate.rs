//! `tokenmeter migrate`: what it would do, many at once, and ledgers that do not fit.

use std::process::Command;

use serde_json::Value;
use tokenmeter_test_postgres as postgres;
use tokenmeter_tests::{Backend, Finished, Process, Start, backend, binary};

/// The command in a folder, for the folder's ledger.
fn command(start: &Start, folder: &std::path::Path, words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .arg("migrate")
        .args(words)
        .current_dir(folder)
        .env("TOKENMETER_LEDGER", start.ledger());
    command
}

/// Runs statements on the folder's ledger, as somebody with SQL would.
fn sql(start: &Start, statements: &str) -> String {
    let url = start.ledger();
    match backend() {
        Backend::Postgres => postgres::sql(&url, statements),
        Backend::Sqlite => {
            const RUN: &str = "import sqlite3, sys\n\
                connection = sqlite3.connect(sys.argv[1])\n\
                for row in connection.execute(sys.argv[2]): print(*row, sep='|')\n\
                connection.commit()";
            let file = url.strip_prefix("sqlite:").unwrap();
            let mut command = Command::new("python3");
            let finished = Finished::of(command.args(["-c", RUN, file, statements]));
            finished.success().stdout
        }
    }
}

fn versions(answer: &Value) -> Vec<i64> {
    let migrations = answer["migrations"].as_array().unwrap();
    let versions = migrations
        .iter()
        .map(|one| one["version"].as_i64().unwrap());
    versions.collect()
}

#[test]
fn a_dry_run_prints_the_sql_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let start = Start::new(folder.path());
    let run = |words: &[&str]| Finished::of(&mut command(&start, folder.path(), words)).success();
    let printed = run(&["--dry-run"]).stdout;
    assert!(printed.contains("nothing was changed"), "{printed}");
    assert!(printed.contains("-- Migration 1: "), "{printed}");
    assert!(printed.contains("CREATE TABLE usage_lines"), "{printed}");
    match backend() {
        Backend::Sqlite => {
            let left = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(left, 0, "it made something");
        }
        Backend::Postgres => {
            let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
            assert_eq!(sql(&start, tables), "0");
        }
    }
    let would = versions(&run(&["--dry-run", "--output=json"]).json());
    assert_eq!(would.first(), Some(&1));
    let done = run(&["--output=json"]).json();
    assert_eq!(versions(&done), would);
    assert_eq!(done["backend"], backend().name());
    let again = run(&["--dry-run"]).stdout;
    assert!(again.contains("nothing would be done"), "{again}");
    assert!(versions(&run(&["--output=json"]).json()).is_empty());
    let stands = sql(&start, "SELECT count(*) FROM _sqlx_migrations");
    assert_eq!(stands, would.len().to_string());
}

#[test]
fn four_at_once_apply_each_migration_once() {
    let folder = tempfile::tempdir().unwrap();
    let start = Start::new(folder.path());
    let all = Finished::of(&mut command(
        &start,
        folder.path(),
        &["--dry-run", "--output=json"],
    ));
    let all = versions(&all.success().json());
    let running: Vec<_> = (0..4)
        .map(|_| Process::spawn(&mut command(&start, folder.path(), &["--output=json"])))
        .collect();
    let mut applied = Vec::new();
    for process in running {
        let finished = process.finish(std::time::Duration::from_secs(120));
        applied.extend(versions(&finished.success().json()));
    }
    applied.sort_unstable();
    assert_eq!(applied, all);
    let stands = sql(&start, "SELECT count(*) FROM _sqlx_migrations");
    assert_eq!(stands, all.len().to_string());
}

#[test]
fn a_ledger_that_does_not_fit_is_told_and_left_alone() {
    let checksum = match backend() {
        Backend::Sqlite => "x'00'",
        Backend::Postgres => "'\\x00'::bytea",
    };
    let later = format!(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', TRUE, {checksum}, 0)"
    );
    let changed = format!("UPDATE _sqlx_migrations SET checksum = {checksum} WHERE version = 1");
    for (statement, why) in [
        (later, "migrated by a newer one"),
        (changed, "checksum mismatch"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let start = Start::new(folder.path());
        Finished::of(&mut command(&start, folder.path(), &[])).success();
        sql(&start, &statement);
        for words in [&[][..], &["--dry-run"]] {
            let finished = Finished::of(&mut command(&start, folder.path(), words));
            assert_eq!(finished.status.code(), Some(1), "{finished:?}");
            assert!(finished.stderr.contains(why), "{finished:?}");
        }
        for flag in ["--migrate-on-start=true", "--migrate-on-start=false"] {
            let (status, stderr) = start.clone().argument(flag).refused();
            assert_eq!(status.code(), Some(1), "{stderr}");
            assert!(stderr.contains(why), "{stderr}");
        }
    }
}

#[test]
fn a_server_that_may_not_migrate_names_the_command_that_does() {
    let folder = tempfile::tempdir().unwrap();
    let start = Start::new(folder.path()).argument("--migrate-on-start=false");
    let (status, stderr) = start.clone().refused();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("run `tokenmeter migrate`"), "{stderr}");
    assert!(stderr.contains("migrations 1, 2"), "{stderr}");
    Finished::of(&mut command(&start, folder.path(), &[])).success();
    start.serve();
}

/// A server that has the file does not stop a command that has nothing to do.
#[test]
fn a_ledger_that_is_served_can_be_asked() {
    let folder = tempfile::tempdir().unwrap();
    let start = Start::new(folder.path());
    let _server = start.clone().serve();
    for words in [&["--dry-run", "--output=json"][..], &["--output=json"]] {
        let finished = Finished::of(&mut command(&start, folder.path(), words));
        assert!(versions(&finished.success().json()).is_empty());
    }
}

#[test]
fn a_password_is_in_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let start = Start::new(folder.path());
    // Nobody listens on port 1.
    let url = "postgres://u:geheim@127.0.0.1:1/t?sslmode=disable";
    let ledger = |words: &[&str]| {
        let mut command = Command::new(binary());
        command.args(words).current_dir(folder.path());
        Finished::of(command.env("TOKENMETER_LEDGER", url))
    };
    for words in [
        &["migrate"][..],
        &["migrate", "--dry-run", "--output=json"],
        &["config", "print"],
        &["config", "check"],
    ] {
        let finished = ledger(words);
        assert_eq!(finished.status.success(), words[0] == "config");
        let told = format!("{}{}", finished.stdout, finished.stderr);
        assert!(!told.contains("geheim"), "{told}");
    }
    assert!(ledger(&["migrate"]).stderr.contains("u:***@127.0.0.1:1/t"));
    drop(start);
}
