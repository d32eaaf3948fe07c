//! The everyday calls against the built binary.

use std::process::Command;

use tokenmeter_client::v1::Interval;
use tokenmeter_client::{Client, ErrorReason, Options, v1};
use tokenmeter_tests::{Finished, Server, Start, example};

/// 120 + 85 tokens of a model with a price.
pub(crate) fn event(event_id: &str) -> v1::UsageEvent {
    let counts = v1::TokenCounts {
        input: 120,
        output: 85,
        ..Default::default()
    };
    let line = v1::UsageLine {
        model: "claude-sonnet-4-5".into(),
        counts: Some(counts),
        ..Default::default()
    };
    v1::UsageEvent {
        event_id: event_id.to_owned(),
        user_id: "ada".into(),
        session_id: "s-1".into(),
        provider: "anthropic".into(),
        usage: Some(v1::usage_event::Usage::Lines(v1::UsageLines {
            lines: vec![line],
        })),
        ..Default::default()
    }
}

#[tokio::test]
async fn what_is_recorded_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let options = Options::new(server.address().to_string())
        .user_agent("client-tests/1")
        .compression(tokenmeter_client::CompressionEncoding::Zstd);
    let client = Client::connect(options).await.unwrap();
    let recorded = client.record(event("e-1")).await.unwrap();
    assert_eq!(recorded.outcome(), v1::RecordOutcome::Recorded);
    let bad = v1::UsageEvent {
        event_id: String::new(),
        ..event("")
    };
    let results = client.record_batch(vec![event("e-1"), bad, event("e-2")]);
    let results = results.await.unwrap();
    let again = results[0].as_ref().unwrap();
    assert_eq!(again.outcome(), v1::RecordOutcome::Duplicate);
    let refused = results[1].as_ref().unwrap_err();
    assert_eq!(refused.reason, Some(ErrorReason::EventIdMissing));
    assert!(results[2].is_ok());

    let usage = client.user_usage("ada", &[Interval::Lifetime]);
    let totals = usage.await.unwrap().intervals.remove(0).totals.unwrap();
    assert_eq!(totals.requests, 2);
    let session = client.session_usage("s-1").await.unwrap();
    assert_eq!(session.totals.unwrap().requests, 2);
    let unknown = client.session_usage("none").await.unwrap_err();
    assert_eq!(unknown.reason, Some(ErrorReason::NotFound));
    assert!(unknown.request_id.is_some(), "{unknown:?}");
}

#[tokio::test]
async fn a_call_survives_a_restart_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let options = Options::new(server.address().to_string()).attempts(100);
    let client = Client::connect(options).await.unwrap();
    client.record(event("e-1")).await.unwrap();
    let start = Start::new(folder.path()).listen(server.address());
    drop(server);
    let restarted = tokio::task::spawn_blocking(move || start.serve());
    let recorded = client.record(event("e-1")).await.unwrap();
    assert_eq!(recorded.outcome(), v1::RecordOutcome::Duplicate);
    drop(restarted.await.unwrap());
}

#[test]
fn the_example_records_and_watches() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut command = Command::new(example("record_and_watch"));
    command.arg(server.address().to_string());
    let printed = Finished::of(&mut command).success().stdout;
    for (word, times) in [
        ("recorded example-", 5),
        ("watched  example-", 5),
        ("has 5 requests in all", 1),
    ] {
        assert_eq!(printed.matches(word).count(), times, "{word}: {printed}");
    }
}
