//! The rules of a stream on a paused clock, with numbers for events and for their results.

use std::convert::Infallible;
use std::pin::Pin;

use tokenmeter_api::streams::Streams;
use tokio::sync::{Notify, mpsc::UnboundedSender};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;

type Message = Result<Vec<usize>, &'static str>;
type Answers = Pin<Box<dyn Stream<Item = Result<Vec<usize>, End<&'static str>>> + Send>>;

/// A stream under test, from the client's side.
struct Client {
    send: Option<UnboundedSender<Message>>,
    answers: Answers,
    draining: CancellationToken,
    streams: Streams,
    /// Every event that was given to `record`, in order.
    recorded: Arc<std::sync::Mutex<Vec<usize>>>,
}

impl Client {
    /// `record` waits as `wait` says for the message, then answers the events themselves.
    fn new<F>(wait: impl Fn(&[usize]) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (send, messages) = mpsc::unbounded_channel();
        let recorded = Arc::<std::sync::Mutex<Vec<usize>>>::default();
        let log = Arc::clone(&recorded);
        let record = move |events: Vec<usize>| {
            log.lock().unwrap().extend(&events);
            let wait = wait(&events);
            async move {
                wait.await;
                events
            }
        };
        let draining = CancellationToken::new();
        let rules = Rules {
            unread_limit: UNREAD_LIMIT,
            draining: draining.clone(),
        };
        let streams = Streams::new(1);
        let place = streams.open().unwrap();
        let messages = UnboundedReceiverStream::new(messages);
        Self {
            send: Some(send),
            answers: open(messages, record, rules, place).boxed(),
            draining,
            streams,
            recorded,
        }
    }

    fn send(&self, events: impl IntoIterator<Item = usize>) {
        let message = Ok(events.into_iter().collect());
        self.send.as_ref().unwrap().send(message).unwrap();
    }

    fn close(&mut self) {
        self.send = None;
    }

    fn recorded(&self) -> usize {
        self.recorded.lock().unwrap().len()
    }

    /// Reads to the end: every result, and why it ended.
    async fn rest(&mut self) -> (Vec<usize>, End<&'static str>) {
        let mut results = Vec::new();
        loop {
            match self.answers.next().await.expect("an end is told") {
                Ok(more) => {
                    assert!((1..=ANSWER_RESULTS).contains(&more.len()));
                    results.extend(more);
                }
                Err(end) => {
                    assert!(self.answers.next().await.is_none());
                    return (results, end);
                }
            }
        }
    }
}

/// Lets every task run until nothing is left to do: the paused clock moves only then.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn at_once(_: &[usize]) -> std::future::Ready<()> {
    ready(())
}

#[tokio::test(start_paused = true)]
async fn every_event_has_one_result_and_then_the_stream_closes() {
    let mut client = Client::new(at_once);
    client.send(0..1_000);
    client.send([1_000]);
    client.send(1_001..1_300);
    client.close();
    let (mut results, end) = client.rest().await;
    results.sort_unstable();
    assert_eq!(results, (0..1_300).collect::<Vec<_>>());
    assert_eq!(end, End::Closed);
    let streams = client.streams.clone();
    drop(client);
    assert!(streams.open().is_ok());
}

#[tokio::test(start_paused = true)]
async fn messages_are_recorded_side_by_side_and_answered_as_they_are_done() {
    let first_may = Arc::new(Notify::new());
    let may = Arc::clone(&first_may);
    let mut client = Client::new(move |events| {
        let held = (events[0] == 0).then(|| Arc::clone(&may));
        async move {
            if let Some(held) = held {
                held.notified().await;
            }
        }
    });
    client.send([0]);
    client.send([1, 2]);
    client.send([3]);
    let mut early = Vec::new();
    while early.len() < 3 {
        early.extend(client.answers.next().await.unwrap().unwrap());
    }
    early.sort_unstable();
    assert_eq!(early, [1, 2, 3]);
    first_may.notify_one();
    client.close();
    assert_eq!(client.rest().await, (vec![0], End::Closed));
}

#[tokio::test(start_paused = true)]
async fn reading_stops_at_the_window_and_goes_on_as_results_are_taken() {
    let mut client = Client::new(at_once);
    for n in 0..100 {
        client.send(n * 100..(n + 1) * 100);
    }
    settled().await;
    // 40 messages have room, the 41st would go past the window.
    assert_eq!(client.recorded(), 4_000);
    client.answers.next().await.unwrap().unwrap();
    settled().await;
    assert_eq!(client.recorded(), 4_100);
    client.close();
    let (results, end) = client.rest().await;
    assert_eq!((results.len(), end), (9_900, End::Closed));
}

#[tokio::test(start_paused = true)]
async fn the_window_is_exact_whatever_the_size_of_messages() {
    for size in [1, 4, 512, 1_000] {
        let client = Client::new(at_once);
        for _ in 0..WINDOW * 2 / size {
            client.send(0..size);
        }
        settled().await;
        assert_eq!(client.recorded(), WINDOW / size * size, "{size} a message");
    }
}

#[tokio::test(start_paused = true)]
async fn results_that_nobody_reads_end_the_stream() {
    let mut client = Client::new(at_once);
    client.send([1]);
    let begun = Instant::now();
    settled().await;
    // One that is read in time starts the time again.
    tokio::time::sleep_until(begun + UNREAD_LIMIT - Duration::from_secs(1)).await;
    assert_eq!(client.answers.next().await, Some(Ok(vec![1])));
    client.send([2]);
    settled().await;
    client.send([3]);
    tokio::time::sleep_until(begun + UNREAD_LIMIT * 2 - Duration::from_secs(3)).await;
    assert!(client.streams.open().is_err(), "the stream is open");
    tokio::time::sleep_until(begun + UNREAD_LIMIT * 2).await;
    assert!(client.streams.open().is_err(), "the client still has it");
    // What had left for the transport is still there to be read, and then the reason.
    let streams = client.streams.clone();
    assert_eq!(client.rest().await, (vec![2], End::AcksUnread));
    drop(client);
    assert!(streams.open().is_ok(), "its place is free");
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_results_to_read_stays_open() {
    let mut client = Client::new(at_once);
    client.send([1]);
    assert_eq!(client.answers.next().await, Some(Ok(vec![1])));
    tokio::time::sleep(UNREAD_LIMIT * 100).await;
    client.send([2]);
    client.close();
    assert_eq!(client.rest().await, (vec![2], End::Closed));
}

#[tokio::test(start_paused = true)]
async fn slow_recording_is_not_slow_reading() {
    let mut client = Client::new(|_| tokio::time::sleep(UNREAD_LIMIT * 3));
    client.send([1]);
    client.close();
    assert_eq!(client.rest().await, (vec![1], End::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_message_of_no_or_too_many_events_ends_the_stream_after_what_was_read() {
    for size in [0, MAX_BATCH_EVENTS + 1] {
        let mut client = Client::new(|_| tokio::time::sleep(Duration::from_secs(1)));
        client.send([7]);
        client.send(0..size);
        client.send([8]);
        assert_eq!(client.rest().await, (vec![7], End::Size(size)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_message_ends_the_stream_after_what_was_read() {
    let mut client = Client::new(|_| tokio::time::sleep(Duration::from_secs(1)));
    client.send([7]);
    client.send.as_ref().unwrap().send(Err("bad")).unwrap();
    client.send([8]);
    assert_eq!(client.rest().await, (vec![7], End::Unreadable("bad")));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_an_idle_stream_at_once_and_a_busy_one_with_its_results() {
    let mut idle = Client::new(at_once);
    settled().await;
    idle.draining.cancel();
    assert_eq!(idle.rest().await, (vec![], End::ShuttingDown));

    let mut busy = Client::new(|_| tokio::time::sleep(Duration::from_secs(1)));
    for n in 0..6 {
        busy.send(n * 1_000..(n + 1) * 1_000);
    }
    settled().await;
    busy.draining.cancel();
    // Four messages have room, the fifth was read and waits for room, the sixth is not read.
    let (mut results, end) = busy.rest().await;
    results.sort_unstable();
    assert_eq!(results, (0..5_000).collect::<Vec<_>>());
    assert_eq!(end, End::ShuttingDown);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_leaves_nothing_behind() {
    let client = Client::new(|_| std::future::pending());
    client.send([1]);
    settled().await;
    assert!(client.streams.open().is_err());
    drop(client.answers);
    settled().await;
    assert!(client.streams.open().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_inside_is_not_taken_for_one_that_closed() {
    let messages = stream::iter([Ok::<_, Infallible>(vec![1])]);
    let rules = Rules {
        unread_limit: UNREAD_LIMIT,
        draining: CancellationToken::new(),
    };
    let record = |_: Vec<i32>| async { panic!("as a bug would") };
    let place = Streams::new(1).open().unwrap();
    let answers = open::<_, i32, _, _>(messages, record, rules, place);
    assert_eq!(answers.collect::<Vec<_>>().await, [Err(End::Gone)]);
}

#[test]
fn a_number_below_0_is_told_beside_what_else_is_wrong() {
    let draft = || Some(Ok(Draft::default()));
    assert!(numbered(0, draft()).is_ok());
    let told = numbered(-1, None).unwrap_err();
    assert_eq!(
        told[0].to_string(),
        "sequence: -1 is out of bounds; send 0 or more"
    );
    assert_eq!(told[1].to_string(), "event: is required");
    assert_eq!(numbered(0, None).unwrap_err().len(), 1);
    assert_eq!(numbered(i64::MIN, draft()).unwrap_err().len(), 1);
}
