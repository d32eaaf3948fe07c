//! Recording many events over one stream, exactly once, through any number of lost connections.
//!
//! The rule of this module: an event is kept until its result has come, and is sent again unchanged
//! if its stream was lost before; its id lets the server recognise it. `pending` is what is kept and
//! knows no network, `task` moves it.

mod pending;
mod task;

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokenmeter_api::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::Code;

use crate::client::Client;
use crate::error::{Error, Result};

/// The bounds of a [`UsageRecorder`].
#[derive(Debug, Clone)]
pub struct RecorderOptions {
    /// How many events are kept at most, waiting or sent and without result. At this bound
    /// [`record`](UsageRecorder::record) waits. 1 to 1,000,000; 8,192 if not said. At most 4,096 of
    /// them are on the way at a time.
    pub capacity: usize,
    /// How many events one message carries at most, 1 to 1,000; 1,000 if not said. What waits goes at
    /// once, so that messages are only as large as the server is busy.
    pub batch_events: usize,
    /// How many bytes of events one message carries at most, unless one event alone is more. 1 MiB
    /// if not said.
    pub batch_bytes: usize,
    /// How long the server may leave sent events without any result before the stream is taken as
    /// lost. 60 seconds if not said.
    pub silence: Duration,
    /// How long a recorder that was closed or dropped goes on to obtain results. 30 seconds if not
    /// said.
    pub drain: Duration,
}

impl Default for RecorderOptions {
    fn default() -> Self {
        Self {
            capacity: 8_192,
            batch_events: 1_000,
            batch_bytes: 1024 * 1024,
            silence: Duration::from_secs(60),
            drain: Duration::from_secs(30),
        }
    }
}

impl RecorderOptions {
    /// The options with every bound within its own.
    fn bounded(mut self) -> Self {
        self.capacity = self.capacity.clamp(1, 1_000_000);
        self.batch_events = self.batch_events.clamp(1, 1_000);
        self.batch_bytes = self.batch_bytes.max(1);
        self
    }
}

/// Records events over one stream, which it opens when there is something to send, and again
/// whenever it is lost.
///
/// Every event that was taken gets exactly one result: that it is recorded, why it was refused, or,
/// if the recorder came to its end before, that this is not known. What the server refuses only for
/// the moment is sent again.
///
/// The recorder comes to its end by [`close`](Self::close), or by an answer that no repetition
/// mends, such as that the caller may not record; then every event without result gets that answer,
/// and no more are taken.
///
/// Dropping a recorder closes it without waiting: its task goes on for
/// [`drain`](RecorderOptions::drain) at most, if the runtime lives that long. What has no result when
/// the runtime ends may be recorded or not; to be sure, close.
///
/// ```no_run
/// # use tokenmeter_client::{Client, RecorderOptions, Result, v1};
/// # async fn example(client: Client, events: Vec<v1::UsageEvent>) -> Result<()> {
/// let recorder = client.recorder(RecorderOptions::default());
/// for event in events {
///     let receipt = recorder.record(event).await?; // waits while the recorder is full
///     tokio::spawn(async move {
///         if let Err(refused) = receipt.await {
///             eprintln!("{refused}");
///         }
///     });
/// }
/// recorder.close().await
/// # }
/// ```
#[derive(Debug)]
pub struct UsageRecorder {
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    ended: Arc<OnceLock<Error>>,
    task: JoinHandle<()>,
}

/// What the recorder's task is told. That there will be no more is a channel without senders.
#[derive(Debug)]
enum Command {
    Record(Box<Entry>),
    /// To be answered when everything recorded before has its result.
    Flush(oneshot::Sender<Result<()>>),
}

/// An event that has no result yet.
#[derive(Debug)]
struct Entry {
    event: v1::UsageEvent,
    receipt: oneshot::Sender<Result<v1::RecordedUsage>>,
    /// Whether it was ever sent, so that it may be recorded.
    sent: bool,
    /// Whether it was sent on the stream of now.
    on_the_way: bool,
    /// Given back with the result.
    _room: OwnedSemaphorePermit,
}

impl Entry {
    /// Ends it with its one result. Nobody may wait for it, which is not our concern.
    fn resolve(self, result: Result<v1::RecordedUsage>) {
        let _ = self.receipt.send(result);
    }

    /// Ends it with that its result is not known.
    fn abandon(self, why: &Error) {
        let error = why.clone().with_unknown(self.sent);
        self.resolve(Err(error));
    }
}

impl UsageRecorder {
    pub(crate) fn start(client: Client, options: RecorderOptions) -> Self {
        let options = options.bounded();
        let (commands, queue) = mpsc::channel(options.capacity);
        let room = Arc::new(Semaphore::new(options.capacity));
        let ended = Arc::new(OnceLock::new());
        let task = task::Task::new(
            client,
            options,
            queue,
            Arc::clone(&room),
            Arc::clone(&ended),
        );
        Self {
            commands,
            room,
            ended,
            task: tokio::spawn(task.run()),
        }
    }

    /// Takes an event, waiting while the recorder is full. Answers the receipt that will tell its
    /// result; who does not care may drop it. Fails if the recorder has come to its end.
    ///
    /// The event needs an `event_id`, or a usage document that carries one; without either the
    /// server refuses it.
    pub async fn record(&self, event: v1::UsageEvent) -> Result<Receipt> {
        let room = Arc::clone(&self.room).acquire_owned().await;
        let (entry, receipt) = entry(event, room.map_err(|_| self.end())?);
        let command = Command::Record(Box::new(entry));
        self.commands.send(command).await.map_err(|_| self.end())?;
        Ok(receipt)
    }

    /// Takes an event if there is room for it now, and gives it back if there is not.
    pub fn try_record(&self, event: v1::UsageEvent) -> std::result::Result<Receipt, NotTaken> {
        if let Some(error) = self.ended.get() {
            return Err(NotTaken::Ended(Box::new(error.clone())));
        }
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            return Err(NotTaken::Full(Box::new(event)));
        };
        let (entry, receipt) = entry(event, room);
        match self.commands.try_send(Command::Record(Box::new(entry))) {
            Ok(()) => Ok(receipt),
            Err(mpsc::error::TrySendError::Full(Command::Record(entry))) => {
                Err(NotTaken::Full(Box::new(entry.event)))
            }
            Err(_) => Err(NotTaken::Ended(Box::new(self.end()))),
        }
    }

    /// Waits until every event taken before has its result, be it a refusal. Fails if the recorder
    /// came to its end without.
    pub async fn flush(&self) -> Result<()> {
        let (done, waiting) = oneshot::channel();
        let command = Command::Flush(done);
        self.commands.send(command).await.map_err(|_| self.end())?;
        waiting.await.unwrap_or_else(|_| Err(self.end()))
    }

    /// Waits until every event has its result, ends the stream and the recorder. Fails if
    /// [`drain`](RecorderOptions::drain) passed, or the recorder came to its end, without.
    pub async fn close(self) -> Result<()> {
        let Self {
            commands,
            ended,
            task,
            ..
        } = self;
        drop(commands);
        let finished = task.await.is_ok();
        match ended.get() {
            Some(error) => Err(error.clone()),
            None if finished => Ok(()),
            None => Err(gone()),
        }
    }

    /// How many more events there is room for.
    pub fn room(&self) -> usize {
        self.room.available_permits()
    }

    /// Why nothing is taken any more.
    fn end(&self) -> Error {
        self.ended.get().cloned().unwrap_or_else(gone)
    }
}

fn entry(event: v1::UsageEvent, room: OwnedSemaphorePermit) -> (Entry, Receipt) {
    let (receipt, result) = oneshot::channel();
    let entry = Entry {
        event,
        receipt,
        sent: false,
        on_the_way: false,
        _room: room,
    };
    (entry, Receipt(result))
}

/// The task is gone without a word, as when its runtime ended.
fn gone() -> Error {
    Error::local(Code::Cancelled, "the recorder has ended").with_unknown(true)
}

/// The result of one event, to be awaited.
#[derive(Debug)]
#[must_use = "the result says whether the event was recorded"]
pub struct Receipt(oneshot::Receiver<Result<v1::RecordedUsage>>);

impl Future for Receipt {
    type Output = Result<v1::RecordedUsage>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = pin!(&mut self.0).poll(cx);
        result.map(|result| result.unwrap_or_else(|_| Err(gone())))
    }
}

/// Why [`try_record`](UsageRecorder::try_record) did not take an event.
#[derive(Debug)]
pub enum NotTaken {
    /// The recorder is full; here is the event.
    Full(Box<v1::UsageEvent>),
    /// The recorder has come to its end, and why.
    Ended(Box<Error>),
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the recorder is full; wait for results, or for room"),
            Self::Ended(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NotTaken {}
