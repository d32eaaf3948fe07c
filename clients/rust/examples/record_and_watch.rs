//! Records a few events through the recorder, watches them come back, and prints the user's totals.
//!
//! Start a server with `cargo run --release -- serve`, then:
//! `cargo run -p tokenmeter-client --example record_and_watch [HOST:PORT]`

use std::time::{Duration, SystemTime};

use tokenmeter_client::v1::{self, Interval, TokenCounts, UsageEvent, UsageLine, UsageLines};
use tokenmeter_client::{Client, Event, Options, RecorderOptions, Result, TokenEvents};

const EVENTS: usize = 5;
const USER: &str = "example-ada";

#[tokio::main]
async fn main() -> Result<()> {
    let server = std::env::args().nth(1);
    let server = server.unwrap_or_else(|| "127.0.0.1:50051".to_owned());
    let client = Client::connect(Options::new(server)).await?;

    // With the first heartbeat the subscription stands, and nothing recorded later is missed.
    let filter = v1::EventFilter {
        user_id: USER.to_owned(),
        types: vec![v1::TokenEventType::UsageRecorded.into()],
        ..Default::default()
    };
    let events = client.events(filter, "");
    let mut events = events.heartbeat(Duration::from_secs(1));
    events.begin().await?;
    let watcher = tokio::spawn(watch(events));

    let recorder = client.recorder(RecorderOptions::default());
    let run = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |time| time.as_millis());
    let mut receipts = Vec::new();
    for n in 0..EVENTS {
        // A real program takes the id of the provider's answer, so that a repeat is recognised.
        receipts.push(recorder.record(event(format!("example-{run}-{n}"))).await?);
    }
    for receipt in receipts {
        let recorded = receipt.await?;
        println!("recorded {}", recorded.event_id);
    }
    recorder.close().await?;

    if let Ok(watched) = watcher.await {
        watched?;
    }
    let usage = client.user_usage(USER, &[Interval::Lifetime]).await?;
    for totals in usage.intervals.into_iter().filter_map(|one| one.totals) {
        println!("{USER} has {} requests in all", totals.requests);
    }
    Ok(())
}

/// Prints as many events as are recorded.
async fn watch(mut events: TokenEvents) -> Result<()> {
    for _ in 0..EVENTS {
        if let Event::UsageRecorded(event) = events.next().await? {
            println!("watched  {}", event.event_id);
        }
    }
    Ok(())
}

fn event(event_id: String) -> UsageEvent {
    let counts = TokenCounts {
        input: 120,
        output: 85,
        ..Default::default()
    };
    let line = UsageLine {
        model: "claude-sonnet-4-5".to_owned(),
        counts: Some(counts),
        ..Default::default()
    };
    UsageEvent {
        event_id,
        user_id: USER.to_owned(),
        provider: "anthropic".to_owned(),
        usage: Some(v1::usage_event::Usage::Lines(UsageLines {
            lines: vec![line],
        })),
        ..Default::default()
    }
}
