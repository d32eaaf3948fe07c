//! Two subscribers, one of which does not read for a million events (R34): the other is not delayed,
//! the server's memory stays flat, and the one that stalled gets everything in the end, in order.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokenmeter_api::v1;
use tokenmeter_tests::{Server, Start, release_binary};
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use v1::metering_service_client::MeteringServiceClient;

/// Events of one call.
const CALL_EVENTS: usize = 500;
/// Calls in flight.
const IN_FLIGHT: usize = 4;
/// What a stream may have under way to a client that does not read, in bytes.
const SMALL_WINDOW: u32 = 65_535;
/// How much the server's memory may grow from the first fifth of the events to the last. Its caches
/// are full by then: the ledger's pages and the last events for subscribers.
const GROWTH_KIB: u64 = 64 * 1_024;
/// How long the next response may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_subscriber_costs_nothing_and_misses_nothing() {
    let events = env::var("TOKENMETER_LOAD_EVENTS").map_or(1_000_000, |n| n.parse().unwrap());
    let home = tempfile::tempdir().unwrap();
    let server = Start::new(home.path()).program(release_binary()).serve();
    let mut reading = Subscriber::open(&server, "").await;
    let mut stalled = Subscriber::open(&server, "").await;
    let recorded = Arc::new(AtomicUsize::new(0));

    let began = Instant::now();
    let reader = tokio::spawn(async move {
        reading.read(events, began).await;
        reading
    });
    let recorder = record(&server, events, began, Arc::clone(&recorded));
    let memory = async {
        let mut memory = Vec::new();
        while recorded.load(Ordering::Relaxed) < events {
            memory.push((recorded.load(Ordering::Relaxed), server.resident_kib()));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        memory
    };
    let ((), memory) = tokio::join!(recorder, memory);
    let took = began.elapsed();
    let mut reading = reader.await.unwrap();
    println!(
        "{events} events in {took:.1?}; the subscriber that reads had the last {:.1?} after the first \
         was sent; from sending to arrival p50 {} ms, p99 {} ms, longest {} ms",
        reading.last.unwrap() - began,
        reading.took_ms(50),
        reading.took_ms(99),
        reading.took_ms(100),
    );
    reading.has_all(events);
    flat(&memory, events);

    // The one that stalled goes on where it was, and half-way on a new connection with its token.
    let began = Instant::now();
    stalled.read(events / 2, began).await;
    let mut stalled = stalled.again(&server).await;
    stalled.read(events, began).await;
    println!(
        "the stalled subscriber had all of them {:.1?} later; memory {} MiB",
        began.elapsed(),
        server.resident_kib() / 1_024
    );
    stalled.has_all(events);
    assert!(server.resident_kib() < peak(&memory, events) + GROWTH_KIB);
}

/// The most memory during the first fifth.
fn peak(memory: &[(usize, u64)], events: usize) -> u64 {
    let first = memory.iter().filter(|(at, _)| *at <= events / 5);
    first.map(|(_, kib)| *kib).max().unwrap_or_default()
}

fn flat(memory: &[(usize, u64)], events: usize) {
    for tenth in 1..=10 {
        let at = memory.iter().rfind(|(at, _)| *at <= events * tenth / 10);
        let (at, kib) = at.unwrap();
        println!("{at} events: {} MiB resident", kib / 1_024);
    }
    let most = memory.iter().map(|(_, kib)| *kib).max().unwrap();
    let early = peak(memory, events);
    assert!(
        most <= early + GROWTH_KIB,
        "{most} KiB resident, {early} KiB in the first fifth of the events"
    );
}

/// Records events; the id of each is its number and when it was sent.
async fn record(server: &Server, events: usize, began: Instant, recorded: Arc<AtomicUsize>) {
    let channel = server.channel().await;
    let mut calls = JoinSet::new();
    for first in (0..events).step_by(CALL_EVENTS) {
        while calls.len() >= IN_FLIGHT {
            calls.join_next().await.unwrap().unwrap();
        }
        let now = began.elapsed().as_millis();
        let batch = (first..events.min(first + CALL_EVENTS)).map(|n| event(n, now));
        let request = v1::BatchRecordUsageRequest {
            events: batch.collect(),
            ..Default::default()
        };
        let mut client = MeteringServiceClient::new(channel.clone());
        let recorded = Arc::clone(&recorded);
        calls.spawn(async move {
            let answer = client.batch_record_usage(request).await.unwrap();
            for one in answer.into_inner().results {
                let result = one.result.unwrap();
                assert!(
                    matches!(result, v1::record_result::Result::Recorded(_)),
                    "{result:?}"
                );
                recorded.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
}

fn event(n: usize, now_ms: u128) -> v1::UsageEvent {
    v1::UsageEvent {
        event_id: format!("{n}-{now_ms}"),
        user_id: format!("user-{}", n % 500),
        session_id: format!("session-{}", n / 40),
        provider: "anthropic".into(),
        usage: Some(v1::usage_event::Usage::Lines(v1::UsageLines {
            lines: vec![v1::UsageLine {
                model: "claude-sonnet-4-5".into(),
                counts: Some(v1::TokenCounts {
                    input: 100,
                    output: 50,
                    ..Default::default()
                }),
                tool_requests: Vec::new(),
            }],
        })),
        ..Default::default()
    }
}

/// The parts of a response that are looked at; the rest is skipped, so that the test costs little.
#[derive(Clone, PartialEq, prost::Message)]
struct Told {
    #[prost(string, tag = "1")]
    resume_token: String,
    #[prost(message, optional, tag = "2")]
    usage_recorded: Option<ToldEvent>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ToldEvent {
    #[prost(string, tag = "1")]
    event_id: String,
    #[prost(string, tag = "10")]
    position: String,
}

/// A subscription, and what came.
struct Subscriber {
    told: Streaming<Told>,
    token: String,
    position: u64,
    seen: Vec<bool>,
    count: usize,
    took_ms: Vec<u128>,
    last: Option<Instant>,
}

impl Subscriber {
    /// Subscribes on a connection of its own, and waits until it listens.
    async fn open(server: &Server, resume_token: &str) -> Self {
        let told = subscribe(server, resume_token).await;
        let mut new = Self {
            told,
            token: String::new(),
            position: 0,
            seen: Vec::new(),
            count: 0,
            took_ms: Vec::new(),
            last: None,
        };
        let first = new.next().await;
        assert!(first.usage_recorded.is_none(), "a heartbeat comes first");
        new.token = first.resume_token;
        new
    }

    /// The same subscriber on a new connection.
    async fn again(self, server: &Server) -> Self {
        Self {
            told: subscribe(server, &self.token).await,
            ..self
        }
    }

    async fn next(&mut self) -> Told {
        let next = tokio::time::timeout(PATIENCE, self.told.message()).await;
        let next = next.expect("a response in time").unwrap();
        next.expect("the stream does not end")
    }

    /// Reads until it has `count` events: each once, and in commit order.
    async fn read(&mut self, count: usize, began: Instant) {
        while self.count < count {
            let told = self.next().await;
            self.token = told.resume_token;
            let Some(event) = told.usage_recorded else {
                continue;
            };
            let (_, position) = event.position.rsplit_once('-').unwrap();
            let position = position.parse().unwrap();
            assert!(
                self.position < position,
                "{} then {position}",
                self.position
            );
            self.position = position;
            let (n, sent_ms) = event.event_id.split_once('-').unwrap();
            let (n, sent_ms): (usize, u128) = (n.parse().unwrap(), sent_ms.parse().unwrap());
            self.seen.resize(self.seen.len().max(n + 1), false);
            assert!(!self.seen[n], "{n} came twice");
            self.seen[n] = true;
            self.count += 1;
            self.took_ms
                .push(began.elapsed().as_millis().saturating_sub(sent_ms));
        }
        self.last = Some(Instant::now());
    }

    fn has_all(&self, events: usize) {
        assert_eq!(self.seen.len(), events);
        assert!(self.seen.iter().all(|seen| *seen));
    }

    fn took_ms(&mut self, percent: usize) -> u128 {
        self.took_ms.sort_unstable();
        self.took_ms[(self.took_ms.len() * percent).div_ceil(100) - 1]
    }
}

async fn subscribe(server: &Server, resume_token: &str) -> Streaming<Told> {
    let channel: Channel = Endpoint::from_shared(format!("http://{}", server.address()))
        .unwrap()
        .initial_stream_window_size(SMALL_WINDOW)
        .initial_connection_window_size(SMALL_WINDOW)
        .connect()
        .await
        .unwrap();
    let path = "/tokenmeter.v1.AnalyticsService/StreamTokenEvents";
    let codec = tonic_prost::ProstCodec::<v1::StreamTokenEventsRequest, Told>::default();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let request = tonic::Request::new(v1::StreamTokenEventsRequest {
        resume_token: resume_token.to_owned(),
        ..Default::default()
    });
    let answer = client.server_streaming(request, PathAndQuery::from_static(path), codec);
    answer.await.unwrap().into_inner()
}
