//! `StreamUsage` on the built binary: one result an event, exact totals whatever breaks, and a client
//! that does not read is not read from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokenmeter_api::v1;
use tokenmeter_api::v1::ErrorReason as R;
use tokenmeter_api::v1::record_result::Result as Outcome;
use tokenmeter_tests::{Chance, Server, Start};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use v1::metering_service_client::MeteringServiceClient;

use crate::support::{Clients, EVENT_NANO_USD, EVENT_TOKENS, event, nano_usd, refusal};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(180);
/// The window of the contract.
const WINDOW: i64 = 4_096;

/// One open stream: where messages go in, and results come out.
struct Stream {
    send: mpsc::Sender<v1::StreamUsageRequest>,
    results: Streaming<v1::StreamUsageResponse>,
}

async fn open(channel: Channel) -> Result<Stream, Status> {
    let (send, messages) = mpsc::channel(1);
    let results = MeteringServiceClient::new(channel)
        .stream_usage(ReceiverStream::new(messages))
        .await?
        .into_inner();
    Ok(Stream { send, results })
}

fn streamed(sequence: i64, event: v1::UsageEvent) -> v1::StreamedEvent {
    v1::StreamedEvent {
        sequence,
        event: Some(event),
    }
}

fn message(events: Vec<v1::StreamedEvent>) -> v1::StreamUsageRequest {
    v1::StreamUsageRequest {
        events,
        ..Default::default()
    }
}

/// The good event of a number.
fn numbered(sequence: i64) -> v1::StreamedEvent {
    streamed(sequence, event(&format!("e-{sequence}")))
}

/// What a stream answered, by sequence, and how it ended.
#[derive(Debug, Default)]
struct Answers {
    results: BTreeMap<i64, Outcome>,
    end: Option<Status>,
}

impl Answers {
    fn take(&mut self, answer: v1::StreamUsageResponse) {
        assert!((1..=1_000).contains(&answer.results.len()));
        for one in answer.results {
            let outcome = one.result.unwrap().result.unwrap();
            let before = self.results.insert(one.sequence, outcome);
            assert!(before.is_none(), "{} is answered twice", one.sequence);
        }
    }

    /// Reads to the end.
    async fn rest(mut self, mut results: Streaming<v1::StreamUsageResponse>) -> Self {
        let read = async {
            loop {
                match results.message().await {
                    Ok(Some(answer)) => self.take(answer),
                    Ok(None) => break,
                    Err(status) => {
                        self.end = Some(status);
                        break;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap();
        self
    }

    fn refusal(&self) -> (Code, R) {
        let status = self.end.as_ref().expect("the stream ended with a status");
        (status.code(), refusal(status).reason)
    }
}

/// Sends all of it, reads meanwhile, closes, and reads to the end.
async fn send_all(channel: Channel, events: Vec<v1::StreamedEvent>, size: usize) -> Answers {
    let Stream { send, results } = open(channel).await.unwrap();
    let reading = tokio::spawn(Answers::default().rest(results));
    for part in events.chunks(size) {
        // Fails only if the stream has ended, and then the answers say why.
        if send.send(message(part.to_vec())).await.is_err() {
            break;
        }
    }
    drop(send);
    reading.await.unwrap()
}

/// The lifetime totals of the user of all events are those of so many events.
async fn totals_are_of(server: &Server, events: i64) {
    let totals = Clients::of(server).await.lifetime("ada").await;
    assert_eq!(totals.requests, events);
    assert_eq!(totals.total_tokens, events * EVENT_TOKENS);
    assert_eq!(nano_usd(totals.cost.as_ref()), events * EVENT_NANO_USD);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_events_with_bad_ones_among_them_have_one_result_each() {
    const EVENTS: i64 = 20_000;
    let mut chance = Chance::new("bad events of a stream");
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut bad = BTreeMap::new();
    let mut events: Vec<_> = (0..EVENTS).map(numbered).collect();
    for (n, one) in (0_i64..).zip(&mut events) {
        if chance.below(50) > 0 {
            continue;
        }
        let (change, reason): (fn(&mut v1::StreamedEvent), R) = match chance.below(4) {
            0 => (|one| one.event = None, R::FieldInvalid),
            1 => (
                |one| one.event.as_mut().unwrap().usage = None,
                R::UsageMissing,
            ),
            2 => (
                |one| one.event.as_mut().unwrap().provider = "nobody".into(),
                R::UnknownProvider,
            ),
            _ => (|one| one.sequence -= EVENTS, R::FieldInvalid),
        };
        change(one);
        bad.insert(one.sequence, reason);
        assert!(one.sequence == n || one.sequence < 0);
    }
    let sent: BTreeSet<_> = events.iter().map(|one| one.sequence).collect();
    let answers = send_all(server.channel().await, events, 137).await;
    assert!(answers.end.is_none(), "{:?}", answers.end);
    assert_eq!(
        answers.results.keys().copied().collect::<BTreeSet<_>>(),
        sent
    );
    for (sequence, outcome) in &answers.results {
        match (outcome, bad.get(sequence)) {
            (Outcome::Recorded(recorded), None) => {
                assert_eq!(recorded.outcome(), v1::RecordOutcome::Recorded);
                assert_eq!(recorded.event_id, format!("e-{sequence}"));
            }
            (Outcome::Error(error), Some(reason)) => {
                assert_eq!(error.reason(), *reason, "{sequence}: {error:?}");
                assert!(!error.retryable);
            }
            other => panic!("{sequence}: {other:?}"),
        }
    }
    let refused = i64::try_from(bad.len()).unwrap();
    assert!(refused > 100, "only {refused} bad events");
    totals_are_of(&server, EVENTS - refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_streams_with_the_same_events_record_each_once() {
    const EVENTS: i64 = 5_000;
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let events: Vec<_> = (0..EVENTS).map(numbered).collect();
    let backwards = events.iter().rev().cloned().collect();
    let (one, other) = tokio::join!(
        send_all(server.channel().await, events, 100),
        send_all(server.channel().await, backwards, 33),
    );
    for sequence in 0..EVENTS {
        let outcomes = [&one, &other].map(|answers| match &answers.results[&sequence] {
            Outcome::Recorded(recorded) => recorded,
            Outcome::Error(error) => panic!("{sequence}: {error:?}"),
        });
        let first = outcomes.map(|one| one.outcome() == v1::RecordOutcome::Recorded);
        assert!(first[0] != first[1], "{sequence}: {outcomes:?}");
        assert_eq!(outcomes[0].recorded_time, outcomes[1].recorded_time);
    }
    totals_are_of(&server, EVENTS).await;
}

#[tokio::test]
async fn an_id_that_stands_with_another_payload_is_refused_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut other = event("e-1");
    other.session_id = "elsewhere".into();
    let first = send_all(server.channel().await, vec![numbered(1)], 1).await;
    assert!(matches!(&first.results[&1], Outcome::Recorded(_)));
    let events = vec![streamed(7, other), numbered(1), numbered(2)];
    let answers = send_all(server.channel().await, events, 3).await;
    assert!(answers.end.is_none());
    match &answers.results[&7] {
        Outcome::Error(error) => assert_eq!(error.reason(), R::EventConflict),
        other => panic!("{other:?}"),
    }
    for (sequence, outcome) in [
        (1, v1::RecordOutcome::Duplicate),
        (2, v1::RecordOutcome::Recorded),
    ] {
        match &answers.results[&sequence] {
            Outcome::Recorded(recorded) => assert_eq!(recorded.outcome(), outcome),
            other => panic!("{sequence}: {other:?}"),
        }
    }
    totals_are_of(&server, 2).await;
}

/// Sends one good message, has its result, then sends a bad one: how the stream ends.
async fn ends_after(server: &Server, first: i64, bad: v1::StreamUsageRequest) -> Answers {
    let Stream { send, mut results } = open(server.channel().await).await.unwrap();
    send.send(message(vec![numbered(first)])).await.unwrap();
    let mut answers = Answers::default();
    answers.take(results.message().await.unwrap().unwrap());
    send.send(bad).await.unwrap();
    let answers = answers.rest(results).await;
    assert!(matches!(&answers.results[&first], Outcome::Recorded(_)));
    assert_eq!(answers.results.len(), 1);
    answers
}

#[tokio::test]
async fn a_bad_message_ends_the_stream_and_what_was_acknowledged_stands() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    for (first, size) in [(-1, 0), (-2, 1_001)] {
        let first = first + 10;
        let bad = message((0..size).map(|n| numbered(n + 100)).collect());
        let answers = ends_after(&server, first, bad).await;
        let told = refusal(answers.end.as_ref().unwrap());
        assert_eq!(
            (told.code, told.reason),
            (Code::InvalidArgument, R::FieldInvalid)
        );
        let text = format!("{size} events is out of bounds; send 1 to 1000 events");
        assert_eq!(told.violations, [("events".to_owned(), text)]);
    }
    let mut huge = event("huge");
    huge.session_id = "x".repeat(5 << 20);
    let answers = ends_after(&server, 20, message(vec![streamed(1, huge)])).await;
    assert_eq!(
        answers.refusal(),
        (Code::ResourceExhausted, R::MessageTooLarge)
    );
    totals_are_of(&server, 3).await;
}

#[tokio::test]
async fn bytes_that_are_no_message_end_the_stream_and_what_was_acknowledged_stands() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut client = tonic::client::Grpc::new(server.channel().await);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/tokenmeter.v1.MeteringService/StreamUsage");
    let (send, messages) = mpsc::channel(1);
    // As an export request, whose first field is no list of events.
    let codec = tonic_prost::ProstCodec::<NoMessage, v1::StreamUsageResponse>::default();
    let mut results = client
        .streaming(Request::new(ReceiverStream::new(messages)), path, codec)
        .await
        .unwrap()
        .into_inner();
    let good = prost::Message::encode_to_vec(&message(vec![numbered(1)]).events[0]);
    send.send(NoMessage { events: good }).await.unwrap();
    let mut answers = Answers::default();
    answers.take(results.message().await.unwrap().unwrap());
    let events = vec![0xff; 10];
    send.send(NoMessage { events }).await.unwrap();
    let answers = answers.rest(results).await;
    assert_eq!(
        answers.refusal(),
        (Code::InvalidArgument, R::MessageUndecodable)
    );
    totals_are_of(&server, 1).await;
}

/// A message of one event as bytes, right or wrong.
#[derive(Clone, PartialEq, prost::Message)]
struct NoMessage {
    #[prost(bytes = "vec", tag = "1")]
    events: Vec<u8>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_not_read_from() {
    const SIZE: i64 = 100;
    const EVENTS: i64 = 40_000;
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    // A small window makes the transport take few results for a client that reads none.
    let channel = Channel::from_shared(format!("http://{}", server.address()))
        .unwrap()
        .initial_stream_window_size(1_024)
        .connect()
        .await
        .unwrap();
    let Stream { send, results } = open(channel).await.unwrap();
    let sent = std::sync::Arc::new(AtomicI64::new(0));
    let counted = std::sync::Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        for first in (0..EVENTS).step_by(SIZE.try_into().unwrap()) {
            let events = (first..first + SIZE).map(numbered).collect();
            send.send(message(events)).await.unwrap();
            counted.fetch_add(SIZE, Ordering::Relaxed);
        }
    });
    // What fits is recorded, and then nothing more, however long one looks: the figure stands still
    // over several looks, each of which the server answers after what it had accepted before.
    let mut clients = Clients::of(&server).await;
    let mut recorded = clients.lifetime("ada").await.requests;
    let mut still = 0;
    let begun = std::time::Instant::now();
    while still < 20 {
        assert!(begun.elapsed() < PATIENCE, "{recorded} events and no end");
        tokio::time::sleep(Duration::from_millis(25)).await;
        let now = clients.lifetime("ada").await.requests;
        still = if now == recorded && now >= WINDOW - SIZE {
            still + 1
        } else {
            0
        };
        recorded = now;
    }
    let one_message = 1_000;
    assert!(
        recorded <= WINDOW + one_message,
        "{recorded} events were accepted"
    );
    assert!(sent.load(Ordering::Relaxed) < EVENTS && !sending.is_finished());

    // As soon as it reads, everything goes on, and nothing was lost.
    let answers = Answers::default().rest(results).await;
    sending.await.unwrap();
    assert!(answers.end.is_none(), "{:?}", answers.end);
    assert_eq!(answers.results.len(), usize::try_from(EVENTS).unwrap());
    totals_are_of(&server, EVENTS).await;
}

#[tokio::test]
async fn a_node_has_only_so_many_streams() {
    let folder = tempfile::tempdir().unwrap();
    let server = Start::new(folder.path())
        .argument("--max-open-streams=2")
        .serve();
    let channel = server.channel().await;
    let first = open(channel.clone()).await.unwrap();
    let second = open(channel.clone()).await.unwrap();
    let status = open(channel.clone()).await.err().expect("a refusal");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let told = refusal(&status);
    assert_eq!(told.reason, R::TooManyStreams);
    assert!(told.retry_after.is_some());
    // One that is closed, or whose client goes, makes room.
    drop(first.send);
    let answers = Answers::default().rest(first.results).await;
    assert!(answers.end.is_none(), "{:?}", answers.end);
    let third = open(channel.clone()).await.unwrap();
    drop(second);
    let begun = std::time::Instant::now();
    while let Err(status) = open(channel.clone()).await {
        assert_eq!(refusal(&status).reason, R::TooManyStreams);
        assert!(begun.elapsed() < PATIENCE, "no room was made");
        tokio::task::yield_now().await;
    }
    drop(third);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_an_idle_stream() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let Stream { send, mut results } = open(server.channel().await).await.unwrap();
    send.send(message(vec![numbered(1)])).await.unwrap();
    let mut answers = Answers::default();
    answers.take(results.message().await.unwrap().unwrap());
    let begun = std::time::Instant::now();
    server.ask_to_end();
    let answers = answers.rest(results).await;
    assert_eq!(answers.refusal(), (Code::Unavailable, R::ShuttingDown));
    assert!(server.terminate().success());
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

/// Sends events until a stream is lost, and again what has no result, on one stream after another.
/// `lose` is told how many results there are, and may end the server; answers whether it did.
async fn until_all_are_answered(
    server: &mut Server,
    events: i64,
    mut lose: impl FnMut(&mut Server, usize) -> bool,
) -> (BTreeMap<i64, Outcome>, u32) {
    let mut done = BTreeMap::new();
    let mut lost = 0;
    while done.len() < usize::try_from(events).unwrap() {
        let left: Vec<_> = (0..events)
            .filter(|n| !done.contains_key(n))
            .map(numbered)
            .collect();
        let Stream { send, mut results } = open(server.channel().await).await.unwrap();
        let sending = tokio::spawn(async move {
            for part in left.chunks(90) {
                if send.send(message(part.to_vec())).await.is_err() {
                    break;
                }
            }
        });
        let mut answers = Answers::default();
        let mut ended = false;
        loop {
            let answer = tokio::time::timeout(PATIENCE, results.message()).await;
            match answer.unwrap() {
                Ok(Some(answer)) => answers.take(answer),
                Ok(None) => break,
                Err(_) => break,
            }
            if !ended {
                ended = lose(server, done.len() + answers.results.len());
            }
        }
        sending.await.unwrap();
        done.extend(answers.results);
        if ended {
            lost += 1;
            server.restart();
        }
    }
    (done, lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_result_when_the_server_ends_is_sent_again_and_totals_are_exact() {
    const EVENTS: i64 = 12_000;
    let mut chance = Chance::new("ends of the server in mid-stream");
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let step = usize::try_from(EVENTS).unwrap() / 5;
    let mut next = step;
    let mut kills = 0;
    let (results, lost) = until_all_are_answered(&mut server, EVENTS, |server, answered| {
        if answered < next {
            return false;
        }
        next += step / 2 + usize::try_from(chance.below(step as u64)).unwrap();
        kills += 1;
        // In turn without warning and as an orchestrator does.
        match kills % 2 {
            0 => drop(server.kill()),
            _ => server.ask_to_end(),
        }
        true
    })
    .await;
    assert!(
        lost >= 3,
        "the server ended only {lost} times in mid-stream"
    );
    for (sequence, outcome) in results {
        match outcome {
            Outcome::Recorded(recorded) => {
                assert_eq!(recorded.event_id, format!("e-{sequence}"));
            }
            Outcome::Error(error) => panic!("{sequence}: {error:?}"),
        }
    }
    totals_are_of(&server, EVENTS).await;
}
