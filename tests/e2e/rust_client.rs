//! The client library for Rust under fire: its recorder and its subscription at once, while the
//! server is killed and started again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokenmeter_api::v1;
use tokenmeter_client::{
    Client, Event, Options, Receipt, RecorderOptions, TokenEvents, UsageRecorder,
};
use tokenmeter_tests::{Chance, Server, rounds, wait_until};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{Clients, counts, event, line, lines, nano_usd};

/// Events that are recorded at least, whatever the machine's speed.
const EVENTS: u64 = 3_000;
const USERS: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(60);

fn user(n: u64) -> String {
    format!("user-{}", n % USERS)
}

fn output_tokens(n: u64) -> i64 {
    85 + i64::try_from(n % 1_000).unwrap()
}

fn numbered(n: u64) -> v1::UsageEvent {
    let tokens = v1::TokenCounts {
        output: output_tokens(n),
        ..counts()
    };
    v1::UsageEvent {
        user_id: user(n),
        usage: Some(lines(vec![line(tokens)])),
        ..event(&format!("e-{n}"))
    }
}

/// What the event of this number comes to: tokens, and nano-USD at the shipped prices.
fn figures(n: u64) -> (i64, i64) {
    let output = output_tokens(n);
    let prompt = 120 * 3_000 + 2_000 * 300 + 300 * 3_750;
    (120 + 2_000 + 300 + output, prompt + output * 15_000)
}

/// Records event after event until told to stop; answers how many.
async fn record(
    recorder: UsageRecorder,
    receipts: mpsc::UnboundedSender<Receipt>,
    stop: Arc<AtomicBool>,
) -> u64 {
    let mut n = 0;
    while n < EVENTS || !stop.load(Ordering::Relaxed) {
        receipts
            .send(recorder.record(numbered(n)).await.unwrap())
            .unwrap();
        n += 1;
    }
    recorder.close().await.unwrap();
    n
}

/// Waits for every receipt, in the order in which the events were taken.
async fn resolve(
    mut receipts: mpsc::UnboundedReceiver<Receipt>,
    resolved: Arc<AtomicU64>,
) -> HashMap<v1::RecordOutcome, u64> {
    let mut outcomes = HashMap::new();
    let mut n = 0;
    while let Some(receipt) = receipts.recv().await {
        let recorded = receipt.await.unwrap();
        let got = (recorded.total_tokens, nano_usd(recorded.cost.as_ref()));
        assert_eq!(
            (recorded.event_id.as_str(), got),
            (format!("e-{n}").as_str(), figures(n))
        );
        *outcomes.entry(recorded.outcome()).or_default() += 1;
        n += 1;
        resolved.store(n, Ordering::Relaxed);
    }
    outcomes
}

/// The next events of a subscription, so many, by id.
async fn ids(events: &mut TokenEvents, wanted: u64) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..wanted {
        let next = timeout(PATIENCE, events.next()).await;
        match next.expect("an event in time").unwrap() {
            Event::UsageRecorded(event) => ids.push(event.event_id),
            other => panic!("{other:?}"),
        }
    }
    ids
}

/// That a subscription has no event left: what comes next is one that is recorded now.
async fn ends_with(events: &mut TokenEvents, client: &Client, event_id: &str) {
    client.record(event(event_id)).await.unwrap();
    assert_eq!(ids(events, 1).await, [event_id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorder_and_subscription_go_through_kills_of_the_server() {
    let mut chance = Chance::new("kills under the client library");
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let options = Options::new(server.address().to_string()).attempts(100);
    let client = Client::connect(options).await.unwrap();
    let mut live = client.events(v1::EventFilter::default(), "");
    live.begin().await.unwrap();
    let begin = live.resume_token().to_owned();

    let (sender, receiver) = mpsc::unbounded_channel();
    let resolved = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let recorder = client.recorder(RecorderOptions {
        capacity: 400,
        batch_events: 100,
        ..Default::default()
    });
    let recording = tokio::spawn(record(recorder, sender, Arc::clone(&stop)));
    let resolving = tokio::spawn(resolve(receiver, Arc::clone(&resolved)));
    // Reads along, through every kill; what is left is read below, when its number is known.
    let watching = tokio::spawn(async move {
        let seen = ids(&mut live, EVENTS).await;
        (live, seen)
    });
    for _ in 0..4 * rounds() {
        let enough = resolved.load(Ordering::Relaxed) + 50 + chance.below(400);
        tokio::task::block_in_place(|| {
            wait_until("receipts", PATIENCE, || {
                (resolved.load(Ordering::Relaxed) >= enough).then_some(())
            });
            server.restart();
        });
    }
    stop.store(true, Ordering::Relaxed);
    let recorded = timeout(PATIENCE, recording).await.unwrap().unwrap();
    let outcomes = timeout(PATIENCE, resolving).await.unwrap().unwrap();
    println!("{recorded} events, receipts {outcomes:?}");
    assert_eq!(outcomes.values().sum::<u64>(), recorded);

    let mut clients = Clients::of(&server).await;
    let mut expected: HashMap<String, (i64, i64, i64)> = HashMap::new();
    for n in 0..recorded {
        let (tokens, cost) = figures(n);
        let sum = expected.entry(user(n)).or_default();
        *sum = (sum.0 + 1, sum.1 + tokens, sum.2 + cost);
    }
    for (user, sum) in expected {
        let totals = clients.lifetime(&user).await;
        let cost = nano_usd(totals.cost.as_ref());
        assert_eq!((totals.requests, totals.total_tokens, cost), sum, "{user}");
    }

    let (mut live, mut seen) = watching.await.unwrap();
    seen.extend(ids(&mut live, recorded - EVENTS).await);
    ends_with(&mut live, &client, "last").await;
    let mut sorted = seen.clone();
    sorted.sort_unstable();
    let mut all: Vec<_> = (0..recorded).map(|n| format!("e-{n}")).collect();
    all.sort_unstable();
    assert!(sorted == all, "each event once");
    // The order is the one in which the ledger has them: a replay without kills gives it.
    let mut replay = client.events(v1::EventFilter::default(), begin);
    assert!(ids(&mut replay, recorded).await == seen, "in order");
}
