//! What recording on PostgreSQL promises when several nodes write at once, and others hold locks.

#![allow(unreachable_pub, clippy::unwrap_used, dead_code)] // a test binary has no outside, and may stop

mod backends;
mod conformance;

use std::sync::Arc;
use std::time::Duration;

use backends::{open_postgres, reopen_postgres};
use conformance::{T0, event, record, submission, tenant, user_totals};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokenmeter_model::event::Event;
use tokenmeter_store::ledger::{Error, Ledger, Outcome, Subject, Submission};
use tokenmeter_store::postgres::{Config, Postgres};

const MONTH_US: i64 = 31 * 24 * 3_600 * 1_000_000;

/// A session beside the ledger's own.
struct Session(PgConnection);

impl Session {
    async fn on(url: &str) -> Self {
        Self(PgConnection::connect(url).await.unwrap())
    }

    async fn run(&mut self, sql: &'static str) -> Result<u64, sqlx::Error> {
        let done = sqlx::query(sql).execute(&mut self.0).await?;
        Ok(done.rows_affected())
    }

    async fn number(&mut self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(&mut self.0)
            .await
            .unwrap()
    }

    /// Waits until so many statements of the ledger wait for a lock.
    async fn until_waiting(&mut self, statements: i64) {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND wait_event_type = 'Lock' AND query LIKE '%event_keys%'";
        while self.number(waiting).await < statements {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn node(url: &str, writers: u32) -> Arc<Postgres> {
    let config = Config {
        writers,
        ..Config::new(url)
    };
    Arc::new(Postgres::open(&config).await.unwrap())
}

fn recorded(outcomes: &[Outcome]) -> usize {
    let recorded = outcomes.iter();
    recorded
        .filter(|outcome| matches!(outcome, Outcome::Recorded { .. }))
        .count()
}

/// Three nodes send the same events in different orders and batches at once: each stands once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_once_from_three_nodes() {
    const EVENTS: usize = 600;
    let (first, url) = open_postgres().await;
    let mut nodes = vec![Arc::new(first)];
    nodes.push(node(&url, 2).await);
    nodes.push(node(&url, 3).await);
    let mut tasks = Vec::new();
    for (n, ledger) in nodes.iter().enumerate() {
        for stride in [1, 7, 11] {
            let ledger = Arc::clone(ledger);
            tasks.push(tokio::spawn(async move {
                let order: Vec<usize> = (0..EVENTS)
                    .map(|m| (m * stride + n * 37) % EVENTS)
                    .collect();
                let mut mine = 0;
                for ids in order.chunks(20 + 13 * n) {
                    let batch = ids.iter().map(|id| {
                        let user = format!("u{}", id % 5);
                        submission("a", event(&format!("e{id}"), &user), 3, T0)
                    });
                    mine += recorded(&record(&*ledger, batch.collect()).await);
                }
                mine
            }));
        }
    }
    let mut all = 0;
    for task in tasks {
        all += task.await.unwrap();
    }
    assert_eq!(all, EVENTS);
    for n in 0..5 {
        let totals = user_totals(&*nodes[0], "a", &format!("u{n}")).await;
        assert_eq!((totals.requests, totals.cost_nano_usd), (120, 360));
    }
    let mut session = Session::on(&url).await;
    let lines = session.number("SELECT count(*) FROM usage_lines").await;
    assert_eq!(lines, 600);
}

/// All events in one user, and events of many, teams and sessions crossed: totals are right, and
/// nobody ever waited in a circle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_are_locked_in_one_order() {
    const ROUNDS: usize = 12;
    let (first, url) = open_postgres().await;
    first.close().await;
    let nodes = [node(&url, 4).await, node(&url, 4).await];
    let mut tasks = Vec::new();
    for (n, ledger) in nodes.iter().enumerate() {
        for task in 0..4 {
            let ledger = Arc::clone(ledger);
            tasks.push(tokio::spawn(async move {
                for round in 0..ROUNDS {
                    let batch = (0..50).map(|m| {
                        let mix = (m * 7 + task * 3 + round) % 10;
                        let hot = task % 2 == 0;
                        let user = if hot { "hot".into() } else { format!("u{mix}") };
                        let one = Event {
                            team_id: format!("t{}", 9 - mix),
                            session_id: format!("s{}", (mix * 3 + n) % 10),
                            ..event(&format!("{n}-{task}-{round}-{m}"), &user)
                        };
                        submission("a", one, 1, T0)
                    });
                    let batch: Vec<_> = batch.collect();
                    assert_eq!(recorded(&record(&*ledger, batch).await), 50);
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let mut teams = 0;
    for n in 0..10 {
        let team = format!("t{n}");
        let (owner, team) = (tenant("a"), Subject::Team(&team));
        teams += nodes[0].totals(&owner, team, None).await.unwrap().requests;
    }
    assert_eq!(teams, 2 * 4 * 12 * 50);
    let hot = user_totals(&*nodes[1], "a", "hot").await;
    assert_eq!(hot.requests, 2 * 2 * 12 * 50);
    let mut session = Session::on(&url).await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(session.number(deadlocks).await, 0);
}

/// A group that waits for another's key has locked no total yet, so that it holds up nobody.
#[tokio::test]
async fn a_group_that_waits_for_a_key_holds_no_total() {
    let (ledger, url) = open_postgres().await;
    let ledger = Arc::new(ledger);
    record(&*ledger, vec![submission("a", event("before", "u"), 1, T0)]).await;
    let mut other = Session::on(&url).await;
    other.run("BEGIN").await.unwrap();
    let key = "INSERT INTO event_keys VALUES ('a', 'e1', '\\x00', 1, 1)";
    other.run(key).await.unwrap();
    let batch: Vec<_> = (0..3)
        .map(|n| submission("a", event(&format!("e{n}"), "u"), 1, T0))
        .collect();
    let writing = Arc::clone(&ledger);
    let group = tokio::spawn(async move { record(&*writing, batch).await });
    let mut watcher = Session::on(&url).await;
    watcher.until_waiting(1).await;
    watcher.run("SET lock_timeout = '1s'").await.unwrap();
    let touch = "UPDATE usage_totals SET updated_at = updated_at";
    assert!(watcher.run(touch).await.unwrap() > 0);
    let lines = "SELECT count(*) FROM usage_lines";
    assert_eq!(watcher.number(lines).await, 1, "and shows nothing");
    other.run("ROLLBACK").await.unwrap();
    assert_eq!(recorded(&group.await.unwrap()), 3);
}

/// Months get their partitions while events of others are recorded, from several nodes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_made_in_mid_load() {
    const MONTHS: i64 = 12;
    let (first, url) = open_postgres().await;
    let nodes = [Arc::new(first), node(&url, 2).await];
    let mut tasks = Vec::new();
    for n in 0..4 {
        let ledger = Arc::clone(&nodes[n % 2]);
        tasks.push(tokio::spawn(async move {
            for month in 0..MONTHS {
                let batch = (0..10).map(|m| {
                    let at = T0 - (month * 10 + m) / 10 * MONTH_US;
                    submission("a", event(&format!("{n}-{month}-{m}"), "u"), 1, at)
                });
                let outcomes = record(&*ledger, batch.collect()).await;
                assert_eq!(recorded(&outcomes), 10);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let totals = user_totals(&*nodes[0], "a", "u").await;
    assert_eq!(totals.requests, 4 * 12 * 10);
    let mut session = Session::on(&url).await;
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'usage_lines'::regclass";
    let made = session.number(partitions).await;
    assert!((11..=13).contains(&made), "{made}");
    // One that was dropped is made anew.
    session.run("DROP TABLE usage_lines_2026_09").await.unwrap();
    let late = submission("a", event("late", "u"), 1, T0);
    assert_eq!(recorded(&record(&*nodes[0], vec![late]).await), 1);
}

/// Sealing waits for groups in flight; those after it see it.
#[tokio::test]
async fn sealing_waits_for_groups_in_flight() {
    let (ledger, url) = open_postgres().await;
    let ledger = Arc::new(ledger);
    let old = |id: &str| submission("a", event(id, "u"), 1, T0 - 3 * MONTH_US);
    record(&*ledger, vec![old("before")]).await;
    let mut stall = Session::on(&url).await;
    stall.run("BEGIN").await.unwrap();
    let hold = "UPDATE usage_totals SET updated_at = updated_at";
    assert!(stall.run(hold).await.unwrap() > 0);
    let writing = Arc::clone(&ledger);
    let flying = old("in flight");
    let group = tokio::spawn(async move { record(&*writing, vec![flying]).await });
    let mut sealer = Session::on(&url).await;
    sealer.until_waiting(1).await;
    let seal = "UPDATE ledger_state SET sealed_before = 1789000000000000";
    sealer.run("SET lock_timeout = '100ms'").await.unwrap();
    assert!(sealer.run(seal).await.is_err(), "a group is in flight");
    stall.run("ROLLBACK").await.unwrap();
    assert_eq!(recorded(&group.await.unwrap()), 1);
    sealer.run("SET lock_timeout = '5s'").await.unwrap();
    sealer.run(seal).await.unwrap();
    let batch = vec![
        old("late"),
        submission("a", event("new", "u"), 1, T0),
        old("before"),
    ];
    let oldest_us = 1_789_000_000_000_000;
    let outcomes = record(&*ledger, batch).await;
    assert_eq!(outcomes[0], Outcome::TooOld { oldest_us });
    assert!(matches!(outcomes[1], Outcome::Recorded { .. }));
    assert_eq!(outcomes[2], Outcome::TooOld { oldest_us });
    assert_eq!(user_totals(&*ledger, "a", "u").await.requests, 3);
}

/// A value that the server refuses fails its own event only.
#[tokio::test]
async fn a_value_that_is_refused_fails_alone() {
    let (ledger, _kept) = open_postgres().await;
    let mut batch: Vec<_> = (0..9)
        .map(|n| submission("a", event(&format!("e{n}"), "u"), 1, T0))
        .collect();
    batch[4].event.stop_reason = "end\0".into();
    let outcomes = ledger.record(batch.into()).await.unwrap();
    for (n, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(Outcome::Recorded { .. }) => assert_ne!(n, 4),
            Err(Error::OutOfRange(_)) => assert_eq!(n, 4),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(user_totals(&ledger, "a", "u").await.requests, 8);
}

/// Sessions that the server ends are made anew; what was acknowledged stands, what was not is
/// recorded by its retry, once.
#[tokio::test]
async fn lost_sessions_are_made_anew() {
    let (ledger, url) = open_postgres().await;
    let mut session = Session::on(&url).await;
    for round in 0..5 {
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE datname = current_database() AND pid <> pg_backend_pid()";
        session.run(kill).await.unwrap();
        let batch: Arc<[Submission]> = (0..20)
            .map(|n| submission("a", event(&format!("e{round}-{n}"), "u"), 1, T0))
            .collect();
        while ledger.record(Arc::clone(&batch)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let again = reopen_postgres(&url).await;
    assert_eq!(user_totals(&again, "a", "u").await.requests, 100);
}

/// A dump that is restored over the database, as by `pg_dump --clean`, makes its types anew: sessions
/// that know the old ones are made anew, too.
#[tokio::test]
async fn types_that_were_made_anew_are_found() {
    let (ledger, url) = open_postgres().await;
    let send = async |id| {
        let one = submission("a", event(id, "u"), 1, T0);
        ledger.record(vec![one].into()).await
    };
    send("before").await.unwrap();
    let mut session = Session::on(&url).await;
    for change in [
        "DROP TYPE new_key",
        "CREATE TYPE new_key AS (tenant_id TEXT, event_id TEXT, fingerprint BYTEA, \
         position BIGINT, charge_time BIGINT)",
    ] {
        session.run(change).await.unwrap();
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let mut done = send("after").await;
    while done.is_err() && std::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
        done = send("after").await;
    }
    assert!(done.is_ok(), "{done:?}");
    assert_eq!(user_totals(&ledger, "a", "u").await.requests, 2);
}
