//! `fanout`: what it costs to tell many subscribers of each recorded event, and how long it takes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use tokenmeter_api::v1;
use tokenmeter_api::v1::metering_service_client::MeteringServiceClient;
use tokenmeter_tests::Server;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

use crate::data::{Generator, with_tenant};
use crate::figures::Tally;
use crate::place::Place;
use crate::record::{now_us, serve};

/// Seconds that are not counted, so that files, caches and flow-control windows are warm.
const WARM_UP: Duration = Duration::from_secs(3);
/// How long all subscribers may take to be told of the last event.
const PATIENCE: Duration = Duration::from_secs(30);
/// The tenant of all events and subscribers.
const TENANT: &str = "tenant-00";

/// What `fanout` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The ledger: sqlite: in a temporary folder of its own, sqlite:FOLDER to make that folder
    /// there, which chooses the disk, or postgres://… of a server in which databases may be made
    #[arg(long, default_value = "sqlite:", value_parser = Place::read)]
    ledger: Place,
    /// How long deliveries are measured, in seconds
    #[arg(long, default_value = "30", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// What the events are made from
    #[arg(long, default_value = "20261121")]
    seed: u64,
    /// Subscribers, each with a stream of its own
    #[arg(long, default_value = "1000")]
    subscribers: usize,
    /// Connections that carry the streams
    #[arg(long, default_value = "8")]
    connections: usize,
    /// Events recorded a second, evenly
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    events_per_second: u32,
}

/// The line of the output.
#[derive(Debug, Serialize)]
struct Line {
    bench: &'static str,
    backend: &'static str,
    /// Deliveries a second.
    ours: f64,
    /// Deliveries a second that were asked for: events a second × subscribers.
    asked: f64,
    ratio: f64,
    unit: &'static str,
    /// From the moment before an event is sent to be recorded to its arrival at a subscriber.
    p50_us: u32,
    p99_us: u32,
    max_us: u32,
    subscribers: usize,
    connections: usize,
    /// The server's resident memory without subscribers, with all of them idle, and at the end.
    rss_kib_start: u64,
    rss_kib_subscribed: u64,
    rss_kib_end: u64,
    /// The server's share of one core while measured, in per cent.
    server_cpu_percent: f64,
}

/// Measures and prints the line.
pub(crate) fn run(runtime: &Runtime, options: &Options) {
    eprintln!("seed {}, {} s", options.seed, options.seconds);
    let mut room = options.ledger.room();
    let server = serve(&mut room);
    let line = runtime.block_on(measure(&server, options));
    println!("{}", serde_json::to_string(&line).expect("a line is JSON"));
}

async fn measure(server: &Server, options: &Options) -> Line {
    let rss_kib_start = server.resident_kib();
    let address = server.address();
    let run = Arc::new(Run {
        began: Instant::now(),
        ready: AtomicUsize::new(0),
    });
    let channels = connect(address, options.connections).await;
    let mut subscribers = JoinSet::new();
    let warm_up = events(options, WARM_UP);
    let counted = events(options, Duration::from_secs(options.seconds.into()));
    for n in 0..options.subscribers {
        let channel = channels[n % channels.len()].clone();
        subscribers.spawn(subscribe(channel, Arc::clone(&run), warm_up, counted));
    }
    until("every subscriber to be told that it listens", || {
        run.ready.load(Ordering::Relaxed) == options.subscribers
    })
    .await;
    let rss_kib_subscribed = server.resident_kib();
    eprintln!("  {} subscribers listen", options.subscribers);

    let recorder = connect(address, 1).await.remove(0);
    let mut generator = Generator::new(options.seed, now_us());
    record(&recorder, &run, &mut generator, options, warm_up).await;
    let (cpu, counting) = (cpu_ticks(server.id()), Instant::now());
    record(&recorder, &run, &mut generator, options, counted).await;
    let mut all = Tally::default();
    let told = tokio::time::timeout(PATIENCE, async {
        while let Some(tally) = subscribers.join_next().await {
            all.add(tally.expect("a subscriber does not panic"));
        }
    });
    told.await.expect("every subscriber is told of every event");
    all.elapsed = counting.elapsed();
    let asked = f64::from(options.events_per_second)
        * f64::from(u32::try_from(options.subscribers).expect("few subscribers"));
    Line {
        bench: "fanout",
        backend: options.ledger.backend(),
        ours: all.per_second().round(),
        asked,
        ratio: (all.per_second() / asked * 1_000.0).round() / 1_000.0,
        unit: "deliveries/s",
        p50_us: all.percentile(50),
        p99_us: all.percentile(99),
        max_us: all.percentile(100),
        subscribers: options.subscribers,
        connections: options.connections,
        rss_kib_start,
        rss_kib_subscribed,
        rss_kib_end: server.resident_kib(),
        server_cpu_percent: (cpu_ticks(server.id()) - cpu) / all.elapsed.as_secs_f64(),
    }
}

/// What subscribers and recorder share.
struct Run {
    began: Instant,
    ready: AtomicUsize,
}

impl Run {
    fn micros(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).expect("a short run")
    }
}

async fn connect(address: SocketAddr, connections: usize) -> Vec<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let mut channels = Vec::with_capacity(connections);
    for _ in 0..connections {
        channels.push(endpoint.connect().await.expect("the server accepts"));
    }
    channels
}

fn events(options: &Options, time: Duration) -> u64 {
    u64::from(options.events_per_second) * time.as_secs()
}

/// Records `count` events one by one, evenly, whether or not the ones before are answered. The id of
/// an event says when it was sent.
async fn record(
    channel: &Channel,
    run: &Arc<Run>,
    generator: &mut Generator,
    options: &Options,
    count: u64,
) {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / options.events_per_second);
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let mut request = generator.batch(1).unary().into_inner();
        tick.tick().await;
        let mut client = MeteringServiceClient::new(channel.clone());
        let event = request.event.as_mut().expect("an event");
        event.event_id = format!("{}-{}", run.micros(), event.event_id);
        calls.spawn(async move {
            let answer = client.record_usage(with_tenant(TENANT, request)).await;
            answer.expect("an event is recorded");
        });
    }
    while let Some(call) = calls.join_next().await {
        call.expect("a call does not panic");
    }
}

/// The part of a response that is looked at: the rest is skipped, so that the subscribers, who share
/// the machine with the server, cost little.
#[derive(Clone, PartialEq, prost::Message)]
struct Told {
    #[prost(message, optional, tag = "2")]
    usage_recorded: Option<ToldEvent>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ToldEvent {
    #[prost(string, tag = "1")]
    event_id: String,
}

/// Receives all events; the time that each took is of those after the warm-up.
async fn subscribe(channel: Channel, run: Arc<Run>, warm_up: u64, counted: u64) -> Tally {
    let path = "/tokenmeter.v1.AnalyticsService/StreamTokenEvents";
    let codec = tonic_prost::ProstCodec::<v1::StreamTokenEventsRequest, Told>::default();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("the server answers");
    let request: Request<_> = with_tenant(TENANT, v1::StreamTokenEventsRequest::default());
    let answer = client
        .server_streaming(request, PathAndQuery::from_static(path), codec)
        .await
        .expect("a subscription is taken");
    let mut told = answer.into_inner();
    let mut tally = Tally::default();
    let mut seen = 0;
    let mut listens = false;
    while seen < warm_up + counted {
        let response = told.message().await.expect("no error");
        let response = response.expect("the stream does not end");
        if !listens {
            // The first response is a heartbeat, at once.
            listens = true;
            run.ready.fetch_add(1, Ordering::Relaxed);
        }
        let Some(event) = response.usage_recorded else {
            continue;
        };
        seen += 1;
        if seen <= warm_up {
            continue;
        }
        let (sent, _) = event.event_id.split_once('-').expect("a time in the id");
        let sent: u64 = sent.parse().expect("a time in the id");
        let took = run.micros() - sent;
        tally.micros.push(u32::try_from(took).unwrap_or(u32::MAX));
        tally.done += 1;
    }
    tally
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = Instant::now();
    while !condition() {
        assert!(waited.elapsed() < PATIENCE, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Processor time of a process in hundredths of a second, user and system.
fn cpu_ticks(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let (_, after) = stat.rsplit_once(')').expect("a command in brackets");
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<f64>().expect("a number");
    ticks(11) + ticks(12)
}
