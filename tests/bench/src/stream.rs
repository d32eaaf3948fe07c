//! `stream`: what durable recording over open streams costs, beside the bare insert.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use tokenmeter_api::v1;
use tokenmeter_api::v1::metering_service_client::MeteringServiceClient;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::client::{Client, Load, recorded};
use crate::data::{Batch, Generator, with_tenant};
use crate::figures::{Case, Tally};
use crate::record::{CALL_EVENTS, Common, WARM_UP, alternate, faster_floor, serve};

/// Numbers of events that one message takes.
const NUMBERS: i64 = 1_000;

/// What `stream` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Messages of 100 events that have not all their results yet, over all streams
    #[arg(long, default_value = "40")]
    messages_in_flight: usize,
}

/// Runs the case and prints its line.
pub(crate) fn run(runtime: &Runtime, options: &Options) {
    let Options {
        common,
        messages_in_flight,
    } = options;
    let mut room = common.announce().room();
    let server = serve(&mut room);
    let client = runtime.block_on(Client::connect(&[server.address()]));
    let start_us = crate::record::now_us();
    let generator = Generator::new(common.seed, start_us);
    let mut load = Load::new(generator, CALL_EVENTS, *messages_in_flight, 50_000);
    let ours = runtime.block_on(slice(&client, &mut load, WARM_UP));
    eprintln!("  warm-up: {:.0} events/s", ours.per_second());
    let mut floor = faster_floor(&mut room, common, start_us);
    let (ours, floor) = alternate(
        common.seconds,
        |time| runtime.block_on(slice(&client, &mut load, time)),
        |time| floor.slice(time),
    );
    Case::new("stream", common.backend(), "events/s", ours, floor).print();
}

/// One slice of `StreamUsage`; counts events. Every tenant has a stream of its own, because a stream
/// is its caller's.
async fn slice(client: &Client, load: &mut Load, time: Duration) -> Tally {
    let work = load.prepare(time, |batch| (Arc::clone(&batch.tenant), batch.streamed()));
    let places = Arc::new(Semaphore::new(load.in_flight * CALL_EVENTS));
    let started = Instant::now();
    let mut streams = HashMap::new();
    let mut readers = JoinSet::new();
    while started.elapsed() < time
        && let Some((tenant, message)) = work.take()
    {
        let count = u32::try_from(message.events.len()).expect("a small message");
        let place = places.acquire_many(count).await.expect("nothing closes it");
        // The reader gives it back, result for result.
        place.forget();
        let next = streams.len();
        let stream = match streams.entry(tenant) {
            std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::hash_map::Entry::Vacant(free) => {
                let channel = client.channel(next);
                let (stream, results) = Sender::open(channel, free.key(), load.in_flight).await;
                readers.spawn(read(results, Arc::clone(&stream.sent), Arc::clone(&places)));
                free.insert(stream)
            }
        };
        stream.send(message).await;
    }
    drop(streams);
    let mut all = Tally::default();
    while let Some(tally) = readers.join_next().await {
        all.add(tally.expect("a reader does not panic"));
    }
    all.elapsed = started.elapsed();
    load.learn(&all);
    all
}

/// When each message of a stream was sent, and how many of its results are still to come.
type Sent = Arc<Mutex<Vec<(Instant, usize)>>>;

/// The sending side of one stream.
struct Sender {
    messages: mpsc::Sender<v1::StreamUsageRequest>,
    sent: Sent,
}

impl Sender {
    async fn open(
        channel: Channel,
        tenant: &str,
        in_flight: usize,
    ) -> (Self, Streaming<v1::StreamUsageResponse>) {
        let (messages, outgoing) = mpsc::channel(in_flight);
        let results = MeteringServiceClient::new(channel)
            .stream_usage(with_tenant(tenant, ReceiverStream::new(outgoing)))
            .await
            .expect("a stream opens")
            .into_inner();
        let sent = Sent::default();
        (Self { messages, sent }, results)
    }

    async fn send(&self, mut message: v1::StreamUsageRequest) {
        {
            let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            let first = i64::try_from(sent.len()).expect("few messages") * NUMBERS;
            for (number, event) in (first..).zip(&mut message.events) {
                event.sequence = number;
            }
            sent.push((Instant::now(), message.events.len()));
        }
        self.messages
            .send(message)
            .await
            .expect("the stream is open");
    }
}

/// Reads every result and gives back its place.
async fn read(
    mut results: Streaming<v1::StreamUsageResponse>,
    sent: Sent,
    places: Arc<Semaphore>,
) -> Tally {
    let mut tally = Tally::default();
    while let Some(answer) = results.message().await.expect("a stream ends well") {
        places.add_permits(answer.results.len());
        let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        for one in answer.results {
            tally.done += recorded(one.result.expect("a result"));
            let number = usize::try_from(one.sequence / NUMBERS).expect("a number of ours");
            let (begun, left) = &mut sent[number];
            *left -= 1;
            if *left == 0 {
                let micros = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
                tally.micros.push(micros);
            }
        }
    }
    tally
}

impl Batch {
    /// The batch as one message of a stream, without numbers yet.
    fn streamed(self) -> v1::StreamUsageRequest {
        let request = self.request().into_inner();
        v1::StreamUsageRequest {
            events: request
                .events
                .into_iter()
                .map(|event| v1::StreamedEvent {
                    sequence: 0,
                    event: Some(event),
                })
                .collect(),
            ..Default::default()
        }
    }
}
