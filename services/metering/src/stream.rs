//! One stream of events: what is read, what waits, and how it ends. Knows neither proto nor tonic.
//!
//! The rule of this module: everything that a stream holds is paid for from its window. A message is
//! recorded when the window has room for all of its events, and an event gives its room back when
//! its result is handed to the transport. So a client that does not read its results is not read
//! from either, and nothing grows meanwhile. Within the window messages are recorded side by side,
//! which is what the ledger's group commit lives on; results come in the order of commits.

use std::collections::VecDeque;
use std::future::{Future, ready};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered};
use futures_util::{Stream, StreamExt as _};
use tokenmeter_api::streams::Permit;
use tokenmeter_model::bounds::{MAX_BATCH_EVENTS, Violation};
use tokenmeter_model::event::Draft;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// Events without a result that was handed to the transport, at most.
pub const WINDOW: usize = 4_096;
/// How long results wait for the client to read any.
pub const UNREAD_LIMIT: Duration = Duration::from_secs(30);
/// Results of one message, at most. Even if every event has all the lines that it may have, such a
/// message is far smaller than the 4 MiB that clients take by default.
const ANSWER_RESULTS: usize = 100;

/// Why a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End<E> {
    /// The client closed its side and has every result.
    Closed,
    /// A message could not be read.
    Unreadable(E),
    /// A message had this many events, which is none or too many.
    Size(usize),
    /// The server stops; what was read has its result.
    ShuttingDown,
    /// Results waited [`UNREAD_LIMIT`] and the client read none.
    AcksUnread,
    /// The client has gone, or the stream broke down inside: nobody reads on.
    Gone,
}

/// What every stream of a node has in common.
#[derive(Debug, Clone)]
pub struct Rules {
    /// [`UNREAD_LIMIT`], shorter in tests.
    pub unread_limit: Duration,
    /// Cancelled when the server stops.
    pub draining: CancellationToken,
}

/// A message whose events have room in the window.
type Admitted<T, E> = Result<(Vec<T>, OwnedSemaphorePermit), End<E>>;

/// Results on their way to the transport, with the room that they still take.
struct Answer<R> {
    results: Vec<R>,
    _room: Option<OwnedSemaphorePermit>,
}

/// Records what `messages` bring and answers the results, last why the stream ended. `record`
/// answers one result an event. The work is a task of its own, so that it goes on while the transport
/// takes nothing; it ends when the answered stream is dropped.
pub fn open<T, R, E, F>(
    messages: impl Stream<Item = Result<Vec<T>, E>> + Send + 'static,
    record: impl Fn(Vec<T>) -> F + Send + 'static,
    rules: Rules,
    place: Permit,
) -> impl Stream<Item = Result<Vec<R>, End<E>>> + Send + 'static
where
    T: Send + 'static,
    R: Send + 'static,
    E: Send + 'static,
    F: Future<Output = Vec<R>> + Send + 'static,
{
    // Room for one message: that there is room again says that the one before was taken.
    let (hand, handed) = mpsc::channel(1);
    let (tell, told) = oneshot::channel();
    let work = async move {
        let end = run(messages, record, rules, hand).await;
        // Nobody listens when the client has gone.
        let _ = tell.send(end);
    };
    tokio::spawn(work.in_current_span());
    let results = ReceiverStream::new(handed).map(|answer: Answer<R>| Ok(answer.results));
    let end = stream::once(told).map(|end| Err(end.unwrap_or(End::Gone)));
    // The place is taken for as long as the transport has the stream, which with a client that never
    // reads is longer than the work.
    results.chain(end).map(move |answer| {
        let _taken = &place;
        answer
    })
}

async fn run<T, R, E, F>(
    messages: impl Stream<Item = Result<Vec<T>, E>>,
    record: impl Fn(Vec<T>) -> F,
    rules: Rules,
    hand: mpsc::Sender<Answer<R>>,
) -> End<E>
where
    F: Future<Output = Vec<R>>,
{
    let mut reading = pin!(admitted(messages, rules.draining));
    let mut recording = FuturesUnordered::new();
    let mut waiting = Waiting::default();
    // Whether the last message that was handed over still lies there.
    let mut handing = false;
    // When the transport last took something, or had everything until then.
    let mut last_progress = Instant::now();
    let mut end = None;
    while end.is_none() || handing || !recording.is_empty() || !waiting.results.is_empty() {
        let unread = handing || !waiting.results.is_empty();
        tokio::select! {
            // What lets go of room comes before what takes some, and the client's time is up only if
            // it has taken nothing at this moment either.
            biased;
            () = hand.closed() => return End::Gone,
            free = hand.reserve(), if unread => {
                let Ok(free) = free else { return End::Gone };
                last_progress = Instant::now();
                let answer = waiting.take();
                handing = answer.is_some();
                if let Some(answer) = answer {
                    free.send(answer);
                }
            }
            Some((results, room)) = recording.next() => {
                if !unread {
                    last_progress = Instant::now();
                }
                waiting.add(results, room);
            }
            next = reading.next(), if end.is_none() => match next {
                Some(Ok((events, room))) => {
                    let results = record(events);
                    recording.push(async { (results.await, room) });
                }
                Some(Err(why)) => end = Some(why),
                None => end = Some(End::ShuttingDown),
            },
            () = sleep_until(last_progress + rules.unread_limit), if unread => {
                return End::AcksUnread;
            }
        }
    }
    end.unwrap_or(End::Gone)
}

/// Messages that the window has room for, until the client closes its side, a message is bad, or the
/// server stops, which ends the stream without a word. A message that was read when the server stops
/// still gets its room.
fn admitted<T, E>(
    messages: impl Stream<Item = Result<Vec<T>, E>>,
    draining: CancellationToken,
) -> impl Stream<Item = Admitted<T, E>> {
    let window = Arc::new(Semaphore::new(WINDOW));
    messages
        .map(|message| message.map_err(End::Unreadable))
        .chain(stream::once(ready(Err(End::Closed))))
        .take_until(draining.cancelled_owned())
        .then(move |message| admit(message, Arc::clone(&window)))
}

async fn admit<T, E>(
    message: Result<Vec<T>, End<E>>,
    window: Arc<Semaphore>,
) -> Result<(Vec<T>, OwnedSemaphorePermit), End<E>> {
    let events = message?;
    let wrong_size = End::Size(events.len());
    if events.is_empty() || events.len() > MAX_BATCH_EVENTS {
        return Err(wrong_size);
    }
    let Ok(count) = u32::try_from(events.len()) else {
        return Err(wrong_size);
    };
    // Fails only for a closed semaphore, and nothing closes this one.
    let room = window.acquire_many_owned(count).await;
    room.map(|room| (events, room)).map_err(|_| End::Gone)
}

/// Results that wait for the transport, and the room that they take together.
struct Waiting<R> {
    results: VecDeque<R>,
    room: Option<OwnedSemaphorePermit>,
}

impl<R> Default for Waiting<R> {
    fn default() -> Self {
        Self {
            results: VecDeque::new(),
            room: None,
        }
    }
}

impl<R> Waiting<R> {
    fn add(&mut self, results: Vec<R>, room: OwnedSemaphorePermit) {
        self.results.extend(results);
        match &mut self.room {
            Some(held) => held.merge(room),
            none => *none = Some(room),
        }
    }

    /// The oldest results, as many as one message carries; none if nothing waits.
    fn take(&mut self) -> Option<Answer<R>> {
        let count = self.results.len().min(ANSWER_RESULTS);
        let results: Vec<R> = self.results.drain(..count).collect();
        let room = match &mut self.room {
            Some(held) if !self.results.is_empty() => held.split(count),
            room => room.take(),
        };
        (count > 0).then_some(Answer {
            results,
            _room: room,
        })
    }
}

/// The draft of an event of a stream: refused if it is absent, or if its number is out of bounds,
/// whatever it is itself.
///
/// # Errors
/// What is out of bounds.
pub fn numbered(
    sequence: i64,
    draft: Option<Result<Draft, Vec<Violation>>>,
) -> Result<Draft, Vec<Violation>> {
    let draft = draft.unwrap_or_else(|| Err(vec![Violation::new("event", "is required")]));
    if sequence >= 0 {
        return draft;
    }
    let text = format!("{sequence} is out of bounds; send 0 or more");
    let mut violations = vec![Violation::new("sequence", text)];
    violations.extend(draft.err().unwrap_or_default());
    Err(violations)
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
