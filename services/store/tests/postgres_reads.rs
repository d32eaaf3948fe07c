//! What answers cost on PostgreSQL, and where they are read.

#![allow(clippy::unwrap_used)] // a test may stop

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use tokenmeter_model::counts::{Line, TokenCounts};
use tokenmeter_model::event::Event;
use tokenmeter_model::id::TenantId;
use tokenmeter_store::ledger::periods::{CloseStep, Month, Periods as _};
use tokenmeter_store::ledger::reports::{Moment, Page, Reports as _, SessionOrder, SessionQuery};
use tokenmeter_store::ledger::{EventQuery, Ledger as _, Range, Subject, Submission};
use tokenmeter_store::postgres::{Config, Postgres};

const MINUTE_US: i64 = 60_000_000;
const DAY_US: i64 = 24 * 60 * MINUTE_US;
/// 2026-06-15, 2026-07-15, 2026-08-15 and 2026-09-15, 12:07:00 UTC.
const MONTHS: [i64; 4] = [
    1_781_525_220_000_000,
    1_784_117_220_000_000,
    1_786_795_620_000_000,
    1_789_474_020_000_000,
];

fn tenant() -> TenantId {
    TenantId::new("a").unwrap()
}

async fn database() -> String {
    tokio::task::spawn_blocking(|| tokenmeter_test_postgres::shared().database("reads"))
        .await
        .unwrap()
}

async fn open(url: &str, replica: Option<&str>) -> Postgres {
    let config = Config {
        replica: replica.map(str::to_owned),
        ..Config::new(url)
    };
    Postgres::open(&config).await.unwrap()
}

async fn record(ledger: &Postgres, id: &str, charge_time_us: i64) {
    let counts = TokenCounts {
        input: 10,
        ..TokenCounts::default()
    };
    let event = Event {
        event_id: id.into(),
        user_id: "u".into(),
        session_id: format!("session-of-{id}"),
        provider: "anthropic".into(),
        lines: vec![Line {
            model: "claude".into(),
            counts,
            tool_requests: Default::default(),
        }],
        ..Event::default()
    };
    let submission = Submission {
        tenant: tenant(),
        fingerprint: event.fingerprint(),
        quotes: vec![None],
        event,
        charge_time_us,
        recorded_at_us: charge_time_us,
        api_key_id: String::new(),
    };
    let outcomes = ledger.record([submission].into()).await.unwrap();
    assert!(outcomes[0].is_ok(), "{outcomes:?}");
}

fn page(as_of: Option<Moment>) -> Page {
    Page {
        as_of,
        skip: 0,
        limit: 10,
    }
}

/// Waits until something is so, at most half a minute.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !so().await {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "waited for {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How often each partition was read, once nobody else is connected: sessions report as they end.
async fn scans(url: &str) -> Vec<(String, i64)> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let others = "SELECT count(*) FROM pg_stat_activity \
                  WHERE datname = current_database() AND pid <> pg_backend_pid() \
                    AND backend_type = 'client backend'";
    until("others to go", async || {
        let count = sqlx::query_scalar::<_, i64>(others);
        count.fetch_one(&mut connection).await.unwrap() == 0
    })
    .await;
    sqlx::query_as(
        "SELECT relname::text, coalesce(seq_scan, 0) + coalesce(idx_scan, 0) \
         FROM pg_stat_user_tables AS s JOIN pg_inherits AS i ON i.inhrelid = s.relid \
         WHERE i.inhparent = 'usage_lines'::regclass ORDER BY relname",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap()
}

/// The partitions that a question reads, however often it is asked: a plan for these values comes
/// first, one for any later.
async fn read_by(url: &str, question: impl AsyncFn(&Postgres)) -> BTreeSet<String> {
    let before = scans(url).await;
    let ledger = open(url, None).await;
    for _ in 0..8 {
        question(&ledger).await;
    }
    ledger.close().await;
    drop(ledger);
    let after = scans(url).await;
    let read = after.into_iter().filter(|one| !before.contains(one));
    read.map(|(name, _)| name).collect()
}

#[tokio::test]
async fn a_question_reads_only_the_months_that_it_is_about() {
    let url = database().await;
    let ledger = open(&url, None).await;
    for (n, time) in MONTHS.into_iter().enumerate() {
        record(&ledger, &format!("e{n}"), time).await;
    }
    ledger.close().await;
    drop(ledger);
    let months: Vec<String> = scans(&url).await.into_iter().map(|one| one.0).collect();
    assert_eq!(months.len(), MONTHS.len(), "{months:?}");
    let only = |n: usize| BTreeSet::from([months[n].clone()]);
    let day = |n: usize| Range {
        from_us: MONTHS[n] - DAY_US,
        to_us: MONTHS[n] + MINUTE_US,
    };

    // What no time is known of is looked for everywhere.
    let session = read_by(&url, async |ledger| {
        let session = ledger.session(&tenant(), "session-of-e1").await;
        assert!(session.unwrap().is_some());
    });
    assert_eq!(session.await, BTreeSet::from_iter(months.clone()));
    let lifetime = read_by(&url, async |ledger| {
        let user = Subject::User("u");
        let totals = ledger.totals(&tenant(), user, None).await.unwrap();
        assert_eq!(totals.input, 40);
    });
    assert_eq!(lifetime.await, BTreeSet::new());
    // A lifetime and the last day at once; the event is in the ragged edge.
    let last_day = read_by(&url, async |ledger| {
        let user = Subject::User("u");
        let ranges = [None, Some(day(2))];
        let totals = ledger.totals_of(&tenant(), user, &ranges).await.unwrap();
        assert_eq!((totals[0].input, totals[1].input), (40, 10));
    });
    assert_eq!(last_day.await, only(2));
    let of_models = read_by(&url, async |ledger| {
        let days = [day(1)];
        let days = ledger.user_spans_by_model(&tenant(), "u", &days).await;
        assert_eq!(days.unwrap().len(), 1);
    });
    assert_eq!(of_models.await, only(1));
    let by_id = read_by(&url, async |ledger| {
        let query = EventQuery {
            event_id: "e0".into(),
            limit: 1,
            ..EventQuery::default()
        };
        assert_eq!(ledger.events(&tenant(), &query).await.unwrap().len(), 1);
    });
    assert_eq!(by_id.await, only(0));
    let of_a_day = read_by(&url, async |ledger| {
        let query = EventQuery {
            model: "claude".into(),
            unpriced_only: true,
            range: Some(day(1)),
            limit: 10,
            ..EventQuery::default()
        };
        assert_eq!(ledger.events(&tenant(), &query).await.unwrap().len(), 1);
    });
    assert_eq!(of_a_day.await, only(1));
}

/// The latest are looked for among those of the last days first, then in all time.
#[tokio::test]
async fn latest_sessions_stand_in_order_however_old_they_are() {
    let url = database().await;
    let ledger = open(&url, None).await;
    for (n, time) in MONTHS.into_iter().enumerate() {
        record(&ledger, &format!("e{n}-a"), time - MINUTE_US).await;
        record(&ledger, &format!("e{n}-b"), time).await;
    }
    let latest = SessionQuery {
        order: SessionOrder::LastEvent,
        ..SessionQuery::default()
    };
    for limit in [1_i64, 2, 3, 8] {
        let mut found = Vec::new();
        for skip in (0..8_i64).step_by(usize::try_from(limit).unwrap()) {
            let page = Page {
                skip,
                limit,
                as_of: None,
            };
            let listed = ledger.sessions(&tenant(), &latest, page).await.unwrap();
            found.extend(listed.entries.into_iter().map(|one| one.session_id));
        }
        let expected = (0..4).rev().flat_map(|n| ["b", "a"].map(|m| (n, m)));
        let expected: Vec<_> = expected
            .map(|(n, m)| format!("session-of-e{n}-{m}"))
            .collect();
        assert_eq!(found, expected, "{limit}");
    }
}

#[tokio::test]
async fn lists_are_as_of_what_the_replica_has() {
    let url = database().await;
    // A server that is its own replica, with a transaction that it does not know the end of.
    let ledger = open(&url, Some(&url)).await;
    record(&ledger, "before", MONTHS[0]).await;
    let ids = async |as_of| {
        let all = SessionQuery::default();
        let listed = ledger.sessions(&tenant(), &all, page(as_of)).await.unwrap();
        let ids: Vec<String> = listed
            .entries
            .into_iter()
            .map(|one| one.session_id)
            .collect();
        (ids, listed.as_of)
    };
    // Transactions of other databases of the server count, too.
    until("a first session", async || !ids(None).await.0.is_empty()).await;
    let mut open_one = PgConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN").execute(&mut open_one).await.unwrap();
    sqlx::query("SELECT pg_current_xact_id()")
        .execute(&mut open_one)
        .await
        .unwrap();
    record(&ledger, "after", MONTHS[1]).await;
    let (known, as_of) = ids(None).await;
    assert_eq!(known, ["session-of-before"]);
    // What the replica cannot answer for yet is read where it is known.
    let position = ledger.last_position().await.unwrap();
    assert!(position > as_of.position, "{position} {as_of:?}");
    let now = Moment {
        position,
        item: position,
    };
    assert_eq!(
        ids(Some(now)).await.0,
        ["session-of-after", "session-of-before"]
    );
    sqlx::query("ROLLBACK")
        .execute(&mut open_one)
        .await
        .unwrap();
    until("both sessions", async || ids(None).await.0.len() == 2).await;
    // And pages of a moment stay what they were.
    assert_eq!(ids(Some(as_of)).await, (known, as_of));
}

#[tokio::test]
async fn a_replica_that_has_another_ledger_is_refused() {
    let (here, elsewhere) = (database().await, database().await);
    drop(open(&elsewhere, None).await);
    let config = Config {
        replica: Some(elsewhere),
        ..Config::new(here)
    };
    let refused = Postgres::open(&config).await.err().map(|e| e.to_string());
    let named = |text: &str| text.contains("ledger_replica leads to another ledger");
    assert!(refused.as_deref().is_some_and(named), "{refused:?}");
}

/// Another node settles and drops a month, after this one saw that it is to be settled.
#[tokio::test]
async fn a_month_that_another_node_drops_meanwhile_keeps_its_adjustments() {
    let url = database().await;
    let ledger = Arc::new(open(&url, None).await);
    record(&ledger, "early", MONTHS[0]).await;
    let month = Month {
        id: "2026-06".into(),
        range: Range {
            from_us: MONTHS[0] - 20 * DAY_US,
            to_us: MONTHS[0] + 20 * DAY_US,
        },
    };
    let step = CloseStep {
        month: &month,
        after: "",
        users: 10,
        now_us: MONTHS[1],
        dry_run: false,
    };
    assert_eq!(
        ledger.close_periods(&tenant(), step).await.unwrap().closed,
        1
    );
    record(&ledger, "late", MONTHS[0]).await;
    let before = ledger.periods(&tenant(), "u", "", 10).await.unwrap();
    assert_eq!(before[0].adjusted.totals.requests, 2);
    assert_eq!(before[0].adjustments.len(), 1);

    // What the other node writes is made here, taken back, and written again by the other.
    let mut other = PgConnection::connect(&url).await.unwrap();
    assert_eq!(ledger.settle_periods(MONTHS[3]).await.unwrap(), 1);
    for sql in [
        "CREATE TABLE kept AS SELECT settled_before, settled_at_position, adjusted, adjustments FROM periods",
        "UPDATE periods SET settled_before = NULL, settled_at_position = NULL, adjusted = NULL, adjustments = NULL",
        "BEGIN",
        "UPDATE periods SET (settled_before, settled_at_position, adjusted, adjustments) = (SELECT * FROM kept)",
        "TRUNCATE usage_lines",
    ] {
        sqlx::query(sql).execute(&mut other).await.unwrap();
    }
    let settling = tokio::spawn({
        let ledger = Arc::clone(&ledger);
        async move { ledger.settle_periods(MONTHS[3]).await }
    });
    let listing = tokio::spawn({
        let ledger = Arc::clone(&ledger);
        async move { ledger.periods(&tenant(), "u", "", 10).await }
    });
    let waiting = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted \
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    until("two to wait", async || {
        let count = sqlx::query_scalar::<_, i64>(waiting);
        count.fetch_one(&mut other).await.unwrap() >= 2
    })
    .await;
    sqlx::query("COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(listing.await.unwrap().unwrap(), before);
    settling.await.unwrap().unwrap();
    let after = ledger.periods(&tenant(), "u", "", 10).await.unwrap();
    assert_eq!(after, before);
}

/// By it a node's readiness tells a busy writer from one that hangs.
#[tokio::test]
async fn what_a_node_has_written_moves_by_its_own_writes_only() {
    let url = database().await;
    let (here, there) = (open(&url, None).await, open(&url, None).await);
    let (before, mut committed) = (here.written(), here.committed());
    record(&there, "theirs", MONTHS[0]).await;
    committed.wait_for(|now| *now > before).await.unwrap();
    assert_eq!(here.written(), before);
    record(&here, "ours", MONTHS[0]).await;
    assert!(here.written() > before);
}
