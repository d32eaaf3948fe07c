//! A million events of five months: nothing has drifted, while nobody waits long and memory stays
//! bounded; then old months are dropped in mid-load, and nothing has drifted still.

use std::env;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokenmeter_api::v1;
use tokenmeter_tests::{Server, Start, backend, release_binary};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::Channel;
use v1::metering_service_client::MeteringServiceClient;

/// Events of one call.
const CALL_EVENTS: usize = 1_000;
/// Calls in flight.
const IN_FLIGHT: usize = 4;
/// How far back the events go, in seconds.
const REACH: i64 = 150 * 86_400;
/// How much the server's memory may grow while totals are compared.
const GROWTH_KIB: u64 = 128 * 1_024;
/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_events_have_not_drifted_and_old_ones_go_in_mid_load() {
    let events = env::var("TOKENMETER_LOAD_EVENTS").map_or(1_000_000, |n| n.parse().unwrap());
    let home = tempfile::tempdir().unwrap();
    let server = Start::new(home.path()).program(release_binary()).serve();
    let now = now(&server).await;
    let began = Instant::now();
    fill(&server, events, now).await;
    println!(
        "{}: {events} events in {:.1?}",
        backend().name(),
        began.elapsed()
    );

    let before = server.resident_kib();
    let found = clean(&server);
    let after = server.resident_kib();
    println!(
        "{} MiB resident before, {} MiB after",
        before / 1_024,
        after / 1_024
    );
    assert!(
        after <= before + GROWTH_KIB,
        "{after} KiB after, {before} KiB before"
    );
    assert!(
        found["totals_checked"].as_i64().unwrap() > 10_000,
        "{found}"
    );

    let (stop, load) = keep_recording(&server, now).await;
    let began = Instant::now();
    let purged = run(&server, &["purge"]);
    println!(
        "{} events dropped in {:.1?}",
        purged["events"],
        began.elapsed()
    );
    stop.send(()).unwrap();
    let (recorded, longest) = load.await.unwrap();
    println!("{recorded} events recorded meanwhile; the slowest call took {longest:.1?}");
    let dropped = usize::try_from(purged["events"].as_i64().unwrap()).unwrap();
    assert!(
        dropped > events / 10 && recorded > 0,
        "{dropped} dropped, {recorded} recorded"
    );
    let usage = run(&server, &["usage", "models"]);
    assert_eq!(
        usage["totals"]["requests"],
        events + recorded,
        "{}",
        usage["totals"]
    );
    clean(&server);
}

/// Runs a command to its end.
fn run(server: &Server, words: &[&str]) -> Value {
    let words = words.iter().copied().chain(["--output", "json"]);
    server.run(words).success().json()
}

/// Compares every total; nothing may differ.
fn clean(server: &Server) -> Value {
    let began = Instant::now();
    let found = run(server, &["reconcile"]);
    let took = began.elapsed();
    println!("{} totals compared in {took:.1?}", found["totals_checked"]);
    assert_eq!(found["drift_count"], 0, "{found}");
    assert!(took < LIMIT, "{took:?}");
    found
}

/// The server's clock, in seconds.
async fn now(server: &Server) -> i64 {
    let mut admin = v1::admin_service_client::AdminServiceClient::new(server.channel().await);
    let status = admin.get_status(v1::GetStatusRequest {}).await.unwrap();
    status.into_inner().server_time.unwrap().seconds
}

/// Of a thousand users and twenty thousand sessions, spread evenly over [`REACH`].
fn event(n: usize, events: usize, now: i64) -> v1::UsageEvent {
    let number = i64::try_from(n).unwrap();
    let age = REACH - REACH * number / i64::try_from(events).unwrap();
    v1::UsageEvent {
        event_id: format!("load-{n}"),
        user_id: format!("user-{}", n % 1_000),
        team_id: format!("team-{}", n % 10),
        session_id: format!("session-{}", n / 50),
        request_time: Some(prost_types::Timestamp {
            seconds: now - age,
            nanos: 0,
        }),
        provider: "anthropic".into(),
        usage: Some(v1::usage_event::Usage::Lines(v1::UsageLines {
            lines: vec![v1::UsageLine {
                model: "claude-sonnet-4-5".into(),
                counts: Some(v1::TokenCounts {
                    input: number % 977,
                    output: number % 89,
                    ..Default::default()
                }),
                tool_requests: Vec::new(),
            }],
        })),
        ..Default::default()
    }
}

async fn send(channel: Channel, events: Vec<v1::UsageEvent>) {
    let request = v1::BatchRecordUsageRequest {
        events,
        ..Default::default()
    };
    let mut client = MeteringServiceClient::new(channel);
    let answer = client.batch_record_usage(request).await.unwrap();
    for one in answer.into_inner().results {
        let result = one.result.unwrap();
        let is_recorded = matches!(result, v1::record_result::Result::Recorded(_));
        assert!(is_recorded, "{result:?}");
    }
}

async fn fill(server: &Server, events: usize, now: i64) {
    let channel = server.channel().await;
    let mut calls = JoinSet::new();
    for first in (0..events).step_by(CALL_EVENTS) {
        while calls.len() >= IN_FLIGHT {
            calls.join_next().await.unwrap().unwrap();
        }
        let batch = (first..events.min(first + CALL_EVENTS)).map(|n| event(n, events, now));
        calls.spawn(send(channel.clone(), batch.collect()));
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
}

/// Records events of now until told to stop; then how many, and how long the slowest call took.
async fn keep_recording(
    server: &Server,
    now: i64,
) -> (oneshot::Sender<()>, JoinHandle<(usize, Duration)>) {
    let channel = server.channel().await;
    let (stop, mut stopped) = oneshot::channel();
    let load = tokio::spawn(async move {
        let (mut recorded, mut longest) = (0, Duration::ZERO);
        while stopped.try_recv().is_err() {
            let batch = (recorded..recorded + 100).map(|n| v1::UsageEvent {
                event_id: format!("meanwhile-{n}"),
                ..event(1, 1, now)
            });
            let began = Instant::now();
            send(channel.clone(), batch.collect()).await;
            longest = longest.max(began.elapsed());
            recorded += 100;
        }
        (recorded, longest)
    });
    (stop, load)
}
