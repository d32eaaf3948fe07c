//! Retention and reconciliation, as administrators see them.

use prost_types::Timestamp;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, SqliteConnection};
use tokenmeter_api::v1::{self, ErrorReason};
use tokenmeter_tests::{Backend, Server, backend};
use v1::record_result::Result as Outcome;

use crate::support::{Clients, EVENT_NANO_USD, event, refusal};

const DAY: i64 = 86_400;

/// The server's clock.
async fn now(clients: &mut Clients) -> Timestamp {
    let status = clients.admin.get_status(v1::GetStatusRequest {}).await;
    status.unwrap().into_inner().server_time.unwrap()
}

/// One event a day of the last 200.
async fn half_a_year(clients: &mut Clients) -> Vec<v1::UsageEvent> {
    let mut events = Vec::new();
    let now = now(clients).await;
    for days in 0..200 {
        let seconds = now.seconds - days * DAY;
        events.push(v1::UsageEvent {
            request_time: Some(Timestamp { seconds, nanos: 0 }),
            session_id: format!("s-{}", days / 7),
            ..event(&format!("day-{days}"))
        });
    }
    for outcome in clients.batch(events.clone()).await.unwrap() {
        assert!(matches!(outcome, Outcome::Recorded(_)), "{outcome:?}");
    }
    events
}

/// Runs SQL on the tables of a server's ledger, as nobody should.
async fn execute(server: &Server, sql: &'static str) {
    let url = server.ledger();
    if backend() == Backend::Postgres {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    } else {
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
}

/// What a command prints for programs, and its exit code.
fn json(server: &Server, words: &[&str]) -> (Value, Option<i32>) {
    let words = words.iter().copied().chain(["--output", "json"]);
    let finished = server.run(words);
    (finished.json(), finished.status.code())
}

#[tokio::test]
async fn purged_events_are_in_every_total_and_not_accepted_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let events = half_a_year(&mut clients).await;
    let before = clients.everything().await;
    let lifetime = clients.lifetime("ada").await;
    assert_eq!(lifetime.requests, 200);

    let (would, _) = json(&server, &["purge", "--dry-run"]);
    let dropped = would["events"].as_i64().unwrap();
    assert!((200 - 90 - 31..=200 - 90).contains(&dropped), "{would}");
    assert_eq!(clients.all_events().await.len(), 200, "a dry run");
    let (done, code) = json(&server, &["purge", "--request-id", "p-1"]);
    assert_eq!((code, done["events"].as_i64()), (Some(0), Some(dropped)));
    assert_eq!(done["sealed_cost_nano_usd"], dropped * EVENT_NANO_USD);
    // The same request again is answered as it was; another one finds nothing left.
    assert_eq!(json(&server, &["purge", "--request-id", "p-1"]).0, done);
    assert_eq!(json(&server, &["purge"]).0["events"], 0);

    let kept = clients.all_events().await;
    assert_eq!(i64::try_from(kept.len()), Ok(200 - dropped));
    assert_eq!(clients.lifetime("ada").await, lifetime);
    // Response times are of the events that are kept, of which none states one.
    assert_eq!(clients.everything().await, before);

    let oldest = kept.last().unwrap().charge_time.unwrap();
    let retry = clients.record(events[199].clone()).await.unwrap_err();
    let refused = refusal(&retry);
    assert_eq!(refused.reason, ErrorReason::EventTooOld);
    let accepted: Timestamp = refused.metadata["oldest_accepted_time"].parse().unwrap();
    assert!(accepted.seconds <= oldest.seconds && accepted.seconds > oldest.seconds - DAY);
    let void = v1::VoidUsageRequest {
        request_id: "v".into(),
        event_id: "day-199".into(),
        reason: "late".into(),
    };
    let refused = refusal(&clients.metering.void_usage(void).await.unwrap_err());
    assert_eq!(refused.reason, ErrorReason::EventTooOld);
    // What retention still wants to keep is not dropped.
    let early = server.run(["purge", "--before", "2100-01-01"]);
    assert_eq!(early.status.code(), Some(1));
    assert!(
        early
            .stderr
            .contains("before: is later than retention allows"),
        "{}",
        early.stderr
    );

    // A range that begins in a quarter-hour of which the events are gone is told.
    let range = |seconds: i64| v1::GetServiceUsageRequest {
        range: Some(v1::TimeRange {
            start_time: Some(Timestamp { seconds, nanos: 0 }),
            end_time: None,
        }),
        ..Default::default()
    };
    let whole = accepted.seconds - 10 * DAY;
    assert!(
        clients
            .analytics
            .get_service_usage(range(whole))
            .await
            .is_ok()
    );
    let ragged = clients.analytics.get_service_usage(range(whole + 1)).await;
    let refused = refusal(&ragged.unwrap_err());
    assert_eq!(refused.reason, ErrorReason::RangeNotRetained);
    assert_eq!(refused.metadata["oldest_time"], accepted.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_in_mid_load_keeps_every_total() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    half_a_year(&mut clients).await;
    let mut loading = clients.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let load = tokio::spawn(async move {
        let mut recorded = 0;
        while stopped.try_recv().is_err() {
            let batch = (0..20).map(|n| event(&format!("now-{}", recorded + n)));
            for outcome in loading.batch(batch.collect()).await.unwrap() {
                assert!(matches!(outcome, Outcome::Recorded(_)), "{outcome:?}");
            }
            recorded += 20;
        }
        recorded
    });
    let purged = tokio::task::block_in_place(|| json(&server, &["purge"]));
    assert!(purged.0["events"].as_i64().unwrap() > 0);
    stop.send(()).unwrap();
    let recorded = load.await.unwrap();
    assert_eq!(clients.lifetime("ada").await.requests, 200 + recorded);
    let (found, code) = json(&server, &["reconcile"]);
    assert_eq!((&found["drift_count"], code), (&Value::from(0), Some(0)));
}

#[tokio::test]
async fn planted_drift_is_found_corrected_and_reviewed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    half_a_year(&mut clients).await;
    let clean = clients.lifetime("ada").await;
    let (found, code) = json(&server, &["reconcile", "--fix"]);
    assert_eq!((&found["drift_count"], code), (&Value::from(0), Some(0)));
    assert!(found["totals_checked"].as_i64().unwrap() > 400, "{found}");

    let plant = "UPDATE usage_totals SET output = output + 1, requests = requests * 2 \
                 WHERE scope = 'user' AND subject = 'ada' AND bucket = 0";
    execute(&server, plant).await;
    let drifted = clients.lifetime("ada").await;
    assert_eq!(drifted.requests, 2 * clean.requests);
    let (found, code) = json(&server, &["reconcile", "--user", "ada"]);
    assert_eq!(
        (&found["drift_count"], &found["flagged"]),
        (&2.into(), &1.into())
    );
    assert_eq!(code, Some(1), "drift stays");
    assert_eq!(
        clients.lifetime("ada").await,
        drifted,
        "nothing was asked to be changed"
    );

    let (found, code) = json(&server, &["reconcile", "--fix", "--request-id", "r"]);
    assert_eq!(
        (&found["corrected"], &found["flagged"]),
        (&1.into(), &1.into())
    );
    assert_eq!(code, Some(1), "one waits for review");
    let largest = &found["drifts"][0];
    assert_eq!(largest["kind"], "user_total");
    assert_eq!(
        (&largest["subject"], &largest["field"]),
        (&"ada".into(), &"requests".into())
    );
    assert_eq!(
        (&largest["drift_ppm"], &largest["state"]),
        (&1_000_000.into(), &"flagged".into())
    );
    let corrected = clients.lifetime("ada").await;
    assert_eq!(corrected.completion_tokens, clean.completion_tokens);
    assert_eq!(corrected.requests, 2 * clean.requests);
    assert_eq!(
        json(&server, &["reconcile", "--fix", "--request-id", "r"]).0,
        found
    );
    let table = server.run(["reconcile", "--request-id", "another"]);
    assert!(table.stdout.contains("1 fields differ"), "{}", table.stdout);

    // Decided once, for all runs that found it.
    let list = v1::ListDriftsRequest {
        state: v1::DriftState::Flagged.into(),
        ..Default::default()
    };
    let flagged = clients.admin.list_drifts(list.clone()).await.unwrap();
    let flagged = flagged.into_inner().drifts;
    assert_eq!(flagged.len(), 3);
    let resolve = v1::ResolveDriftRequest {
        request_id: "d".into(),
        drift_id: flagged[0].drift_id.clone(),
        correct: true,
        reason: "planted".into(),
    };
    for _ in 0..2 {
        let done = clients.admin.resolve_drift(resolve.clone()).await.unwrap();
        let drift = done.into_inner().drift.unwrap();
        assert_eq!(drift.state(), v1::DriftState::Corrected);
    }
    let again = v1::ResolveDriftRequest {
        request_id: "e".into(),
        ..resolve
    };
    let refused = refusal(&clients.admin.resolve_drift(again).await.unwrap_err());
    assert_eq!(refused.reason, ErrorReason::FieldInvalid);
    let flagged = clients.admin.list_drifts(list).await.unwrap();
    assert_eq!(flagged.into_inner().drifts, []);
    assert_eq!(clients.lifetime("ada").await, clean);
    let (found, code) = json(&server, &["reconcile", "--fix"]);
    assert_eq!((&found["drift_count"], code), (&Value::from(0), Some(0)));
}
