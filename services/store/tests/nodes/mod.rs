//! feed_complete with several nodes: who follows the log on any of them gets everything, in one order,
//! whatever else goes on in the server. Each function takes the URL of an empty database.

#![allow(dead_code)] // the planted faults run a part of it

pub mod servers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use tokenmeter_model::limit::{Scope, Window, Zoned};
use tokenmeter_model::zone::Zone;
use tokenmeter_store::counters::CounterKey;
use tokenmeter_store::ledger::log::{Change, Entry};
use tokenmeter_store::ledger::{Ledger, Outcome};
use tokenmeter_store::postgres::{Config, Postgres};
use tokenmeter_store::tail::{Subscription, Tail};
use tokenmeter_test_postgres as server;

use super::conformance::feed::{PATIENCE, send, take_out, whole};
use super::conformance::{T0, event, submission, tenant};

/// The lock that a session which writes holds (services/store/src/postgres/connect.rs).
const WRITERS: i64 = 0x746f_6b65_6e6d_7472;
/// How long something is watched that must not happen.
const A_WHILE: Duration = Duration::from_millis(400);
/// How far behind a commit the log may be when nothing holds it up: the slowest poll, and what a busy
/// machine adds.
const MAX_LAG: Duration = Duration::from_secs(5);

/// One more node on a database.
pub async fn node(url: &str) -> Arc<dyn Ledger> {
    Arc::new(Postgres::open(&Config::new(url)).await.unwrap())
}

/// A subscriber, who comes back when it is sent away.
pub struct Follower {
    ledger: Arc<dyn Ledger>,
    subscription: Subscription,
    position: i64,
}

fn follow(ledger: &Arc<dyn Ledger>, after: i64) -> Follower {
    Follower {
        ledger: Arc::clone(ledger),
        subscription: Tail::new(Arc::clone(ledger)).subscribe(&tenant("a"), after),
        position: after,
    }
}

impl Follower {
    async fn next(&mut self) -> Vec<Arc<Entry>> {
        loop {
            match self.subscription.next().await {
                Ok(page) => {
                    self.position = page.through;
                    return page.entries;
                }
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    *self = follow(&self.ledger, self.position);
                }
            }
        }
    }
}

fn id(entry: &Entry) -> &str {
    match &entry.change {
        Change::Recorded(event) | Change::Voided(event) | Change::Repriced { event, .. } => {
            &event.event.event_id
        }
    }
}

/// What comes next, so many entries.
async fn next(follower: &mut Follower, entries: usize) -> Vec<Arc<Entry>> {
    let mut seen = Vec::new();
    let all = async {
        while seen.len() < entries {
            seen.extend(follower.next().await);
        }
    };
    let done = tokio::time::timeout(PATIENCE, all).await;
    assert!(done.is_ok(), "{} of {entries} came", seen.len());
    seen
}

async fn ids(follower: &mut Follower, entries: usize) -> Vec<String> {
    let seen = next(follower, entries).await;
    seen.iter().map(|entry| id(entry).to_owned()).collect()
}

/// A session of somebody with SQL.
struct Sql(PgConnection);

impl Sql {
    async fn connect(url: &str) -> Self {
        Self(PgConnection::connect(url).await.unwrap())
    }

    /// A session that writes as a node does.
    async fn writer(url: &str) -> Self {
        let mut session = Self::connect(url).await;
        session
            .run(&format!("SELECT pg_advisory_lock_shared({WRITERS})"))
            .await;
        session
    }

    async fn run(&mut self, sql: &str) {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        sql.execute(&mut self.0).await.unwrap();
    }

    /// Writes a line like that of another event, as a node's transaction does.
    async fn write_like(&mut self, event: &str, like: &str) {
        self.run(&format!(
            "WITH state AS (
                 SELECT base + (pg_current_xact_id()::TEXT::BIGINT << 15) + 1 AS at
                 FROM ledger_state
             ), line AS (
                 INSERT INTO usage_lines
                 SELECT (jsonb_populate_record(l, jsonb_build_object(
                     'position', at, 'event_id', '{event}'))).*
                 FROM usage_lines AS l, state WHERE event_id = '{like}' AND tenant_id = 'a'
             )
             INSERT INTO commits SELECT 'a', at, at, {T0}, {T0} FROM state"
        ))
        .await;
    }
}

/// Three nodes record, void and follow at once. Every subscriber sees the same, each position once and
/// in order, and of every event that was acknowledged exactly what was acknowledged.
pub async fn three_nodes_write_one_log(url: &str) {
    const EVENTS: usize = 120;
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(node(url).await);
    }
    let mut followers: Vec<_> = nodes.iter().map(|node| follow(node, 0)).collect();
    let writers = nodes.iter().cloned().enumerate().map(|(n, node)| {
        tokio::spawn(async move {
            for e in 0..EVENTS {
                let lines = 1 + e % 3;
                send(&*node, "a", &format!("{n}-{e}"), lines, true).await;
                if e % 10 == 0 {
                    take_out(&*node, &format!("{n}-{e}")).await;
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let entries = 3 * (EVENTS + EVENTS / 10);
    let mut first: Option<Vec<Arc<Entry>>> = None;
    for follower in &mut followers {
        let seen = next(follower, entries).await;
        assert!(seen.is_sorted_by(|one, next| one.position < next.position));
        for n in 0..3 {
            let recorded = |entry: &&Arc<Entry>| matches!(entry.change, Change::Recorded(_));
            let of_node = format!("{n}-");
            let order: Vec<usize> = seen
                .iter()
                .filter(recorded)
                .filter_map(|entry| id(entry).strip_prefix(&of_node)?.parse().ok())
                .collect();
            assert_eq!(order, (0..EVENTS).collect::<Vec<_>>(), "of node {n}");
        }
        assert_eq!(&seen, first.get_or_insert_with(|| seen.clone()));
    }
    for node in &nodes {
        assert_eq!(Some(whole(&**node, "a", 256).await), first);
    }
}

/// A transaction has its position and is not committed: a seed says that it does not contain it, though
/// it contains what came after.
pub async fn a_seed_says_that_it_lacks_what_is_open(url: &str) {
    let node = node(url).await;
    let owner = tenant("a");
    let before = send(&*node, "a", "before", 1, true).await;
    let mut open = Sql::writer(url).await;
    open.run("BEGIN").await;
    open.write_like("open", "before").await;
    let after = send(&*node, "a", "after", 1, true).await;

    let zoned = Zoned::always(Zone::utc());
    let key = CounterKey {
        scope: Scope::Tenant,
        subject: "".into(),
        window: Window::Hour,
        provider: "".into(),
        model: "".into(),
    };
    let requests = async || {
        let seeds = node.seeds(&owner, &zoned, std::slice::from_ref(&key), T0);
        let (seeds, seen) = seeds.await.unwrap();
        let buckets = seeds[0].buckets.iter();
        (buckets.map(|(_, sum)| sum.requests).sum::<i64>(), seen)
    };
    let (counted, lacking) = requests().await;
    assert_eq!(counted, 2);
    assert!(lacking.contains(before) && lacking.contains(after));

    open.run("COMMIT").await;
    let (counted, complete) = requests().await;
    assert_eq!(counted, 3);
    let entries = whole(&*node, "a", 256).await;
    let position = entries.iter().find(|entry| id(entry) == "open");
    let position = position.map(|entry| entry.position).unwrap();
    assert!((before..after).contains(&position));
    assert!(!lacking.contains(position), "{position} is in {lacking:?}");
    for position in [before, position, after] {
        assert!(complete.contains(position));
    }
}

/// A transaction has its position and is not committed. What is committed meanwhile comes after it, and
/// not before it ended.
pub async fn an_open_transaction_is_not_passed(url: &str) {
    let (one, two) = (node(url).await, node(url).await);
    send(&*one, "a", "before", 1, true).await;
    let mut followers = [follow(&one, 0), follow(&two, 0)];
    for follower in &mut followers {
        assert_eq!(ids(follower, 1).await, ["before"]);
    }
    let mut open = Sql::writer(url).await;
    open.run("BEGIN").await;
    open.write_like("open", "before").await;
    let after = send(&*two, "a", "after", 1, true).await;
    for follower in &mut followers {
        let passed = tokio::time::timeout(A_WHILE, follower.next()).await;
        assert!(passed.is_err(), "the log went on: {passed:?}");
    }
    assert!(*two.committed().borrow() < after);

    open.run("COMMIT").await;
    let committed = Instant::now();
    for follower in &mut followers {
        assert_eq!(ids(follower, 2).await, ["open", "after"]);
    }
    let lag = committed.elapsed();
    assert!(lag < MAX_LAG, "{lag:?}");
    // One that is undone holds up the log no longer than it lasts.
    open.run("BEGIN").await;
    open.write_like("undone", "before").await;
    let last = send(&*one, "a", "last", 1, true).await;
    open.run("ROLLBACK").await;
    for follower in &mut followers {
        assert_eq!(ids(follower, 1).await, ["last"]);
    }
    assert!(one.last_position().await.unwrap() >= last);
    assert_eq!(
        one.ledger_entries().await,
        ["before", "open", "after", "last"]
    );
}

/// Open transactions of others do not hold up the log: not a writer's of another ledger on the same
/// server, not an analyst's in this database.
pub async fn open_transactions_of_others_hold_up_nobody(url: &str, elsewhere: &str) {
    let one = node(url).await;
    let _other_ledger = node(elsewhere).await;
    let mut foreign = Sql::writer(elsewhere).await;
    let mut analyst = Sql::connect(url).await;
    for other in [&mut foreign, &mut analyst] {
        other.run("BEGIN").await;
        other.run("CREATE TABLE report (n BIGINT)").await;
    }
    let mut follower = follow(&one, 0);
    for n in 0..10 {
        let name = format!("e{n}");
        send(&*one, "a", &name, 1, true).await;
        let acknowledged = Instant::now();
        assert_eq!(ids(&mut follower, 1).await, [name]);
        let lag = acknowledged.elapsed();
        assert!(lag < MAX_LAG, "{lag:?}");
    }
    for other in [&mut foreign, &mut analyst] {
        other.run("COMMIT").await;
    }
}

/// A node follows what others commit: told of it within milliseconds, and by itself when it was not
/// told.
pub async fn other_nodes_are_heard(url: &str) {
    const ROUNDS: usize = 15;
    let (one, two) = (node(url).await, node(url).await);
    let mut follower = follow(&two, 0);
    let mut lags = Vec::new();
    for n in 0..ROUNDS {
        let name = format!("e{n}");
        send(&*one, "a", &name, 1, true).await;
        let acknowledged = Instant::now();
        assert_eq!(ids(&mut follower, 1).await, [name]);
        lags.push(acknowledged.elapsed());
    }
    lags.sort();
    // By the poll alone it would take half a second on average.
    let median = lags[ROUNDS / 2];
    assert!(median < Duration::from_millis(250), "{lags:?}");

    // Nobody tells of this commit.
    let mut silent = Sql::writer(url).await;
    silent.write_like("silent", "e0").await;
    let committed = Instant::now();
    assert_eq!(ids(&mut follower, 1).await, ["silent"]);
    let lag = committed.elapsed();
    assert!(lag < MAX_LAG, "{lag:?}");
}

/// What one node has acknowledged, a list on it has; and a position that one node gave out stands on
/// another that has not come so far.
pub async fn positions_of_now_cover_what_was_acknowledged(url: &str) {
    let (one, two) = (node(url).await, node(url).await);
    for n in 0..20 {
        let position = send(&*one, "a", &format!("e{n}"), 2, true).await;
        let now = one.last_position().await.unwrap();
        assert!(now > position, "{now} is before the second line");
        assert!(two.holds(&one.opening(), now).await.unwrap());
        assert!(*two.committed().borrow() >= now);
    }
}

trait Entries {
    async fn ledger_entries(&self) -> Vec<String>;
}

impl Entries for Arc<dyn Ledger> {
    /// The ids of the whole log.
    async fn ledger_entries(&self) -> Vec<String> {
        let all = whole(&**self, "a", 256).await;
        all.iter().map(|entry| id(entry).to_owned()).collect()
    }
}

/// Records an event once the server is there again: until then it is refused.
async fn persist(ledger: &dyn Ledger, name: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let one = submission("a", event(name, "u"), 100, T0);
        match ledger.record(vec![one].into()).await {
            Ok(outcomes) => match outcomes[..] {
                [Ok(Outcome::Recorded { .. } | Outcome::Duplicate(_))] => return,
                ref other => panic!("{other:?}"),
            },
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
