//! The task of a recorder: takes events, sends them, reads results, and opens the stream again when
//! it is lost.

use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokenmeter_api::v1::{self, ErrorReason};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxFuture;
use tonic::{Code, Response, Status, Streaming};

use super::pending::{Pending, Settled};
use super::{Command, RecorderOptions};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::Error;

/// How many messages wait for the connection. What is behind them gathers into larger ones.
const MESSAGES: usize = 2;
/// How often in a row, without a result between, the server may fail by its own fault.
const FAULTS: u32 = 5;
/// How long the server has to close its side after everything has its result.
const FAREWELL: Duration = Duration::from_secs(5);

/// A stream that is open or being opened.
#[derive(Debug)]
struct Link {
    /// Where messages go; none once the connection takes no more. `answers` say why.
    requests: Option<mpsc::Sender<v1::StreamUsageRequest>>,
    answers: Answers,
}

/// The server's side of a stream. It may answer the opening only after the first message.
enum Answers {
    Opening(BoxFuture<Response<Streaming<v1::StreamUsageResponse>>, Status>),
    Open(Box<Streaming<v1::StreamUsageResponse>>),
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Opening(_) => "Opening",
            Self::Open(_) => "Open",
        })
    }
}

impl Answers {
    /// The next message; `None` when the server has closed. Nothing is lost if it is dropped early.
    async fn next(&mut self) -> Result<Option<v1::StreamUsageResponse>, Status> {
        loop {
            match self {
                Self::Opening(opening) => {
                    let open = opening.await?.into_inner();
                    *self = Self::Open(Box::new(open));
                }
                Self::Open(stream) => return stream.message().await,
            }
        }
    }
}

/// A recorder at work.
#[derive(Debug)]
pub(super) struct Task {
    client: Client,
    options: RecorderOptions,
    commands: mpsc::Receiver<Command>,
    room: Arc<Semaphore>,
    ended: Arc<OnceLock<Error>>,
    pending: Pending,
    link: Option<Link>,
    backoff: Backoff,
    /// Nothing is opened or sent before.
    wake: Instant,
    /// When the last result came, or the first event after all had theirs was sent.
    heard: Instant,
    /// Failures by the server's own fault since the last result.
    faults: u32,
    /// Set when the recorder was closed: until when results are waited for.
    end: Option<Instant>,
}

impl Task {
    pub(super) fn new(
        client: Client,
        options: RecorderOptions,
        commands: mpsc::Receiver<Command>,
        room: Arc<Semaphore>,
        ended: Arc<OnceLock<Error>>,
    ) -> Self {
        let backoff = client.backoff();
        let now = Instant::now();
        Self {
            pending: Pending::new(&options),
            client,
            options,
            commands,
            room,
            ended,
            link: None,
            backoff,
            wake: now,
            heard: now,
            faults: 0,
            end: None,
        }
    }

    pub(super) async fn run(mut self) {
        match self.work().await {
            Ok(()) => self.farewell().await,
            Err(error) => self.fail(error).await,
        }
    }

    /// Works until everything has its result and there will be no more, or until nothing helps.
    async fn work(&mut self) -> Result<(), Error> {
        while self.end.is_none() || !self.pending.is_empty() {
            let awake = Instant::now() >= self.wake;
            if awake && self.link.is_none() && self.pending.sendable() {
                self.link = Some(self.open());
            }
            let requests = self.link.as_ref().and_then(|link| link.requests.clone());
            let ending = self
                .link
                .as_ref()
                .is_some_and(|link| link.requests.is_none());
            tokio::select! {
                command = self.commands.recv(), if self.end.is_none() => self.take(command),
                permit = reserve(requests), if awake && self.pending.sendable() => {
                    self.send(permit);
                }
                answer = answer(self.link.as_mut()) => self.hear(answer)?,
                () = sleep_until(self.wake), if !awake => {}
                () = sleep_until(self.heard + self.options.silence),
                    if ending || self.pending.on_the_way() > 0 =>
                {
                    let silent = "sent events have had no result for too long";
                    self.lose(Error::local(Code::Unavailable, silent))?;
                }
                () = sleep_until(self.end.unwrap_or(self.wake)), if self.end.is_some() => {
                    let late = "the recorder was closed, and not every event had its result in time";
                    return Err(Error::local(Code::DeadlineExceeded, late));
                }
            }
        }
        Ok(())
    }

    fn open(&self) -> Link {
        let (requests, queue) = mpsc::channel(MESSAGES);
        let mut metering = self.client.metering();
        let opening = async move { metering.stream_usage(ReceiverStream::new(queue)).await };
        Link {
            requests: Some(requests),
            answers: Answers::Opening(Box::pin(opening)),
        }
    }

    fn take(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Record(entry)) => self.pending.add(*entry),
            Some(Command::Flush(done)) => self.pending.flush(done),
            None => self.end = Some(Instant::now() + self.options.drain),
        }
    }

    /// Sends a message. Without a permit the connection takes no more, and its answers will say why.
    fn send(&mut self, permit: Option<Permit>) {
        if self.pending.on_the_way() == 0 {
            self.heard = Instant::now();
        }
        match permit {
            Some(permit) => drop(permit.send(self.pending.batch())),
            None => {
                if let Some(link) = &mut self.link {
                    link.requests = None;
                }
            }
        }
    }

    /// Takes what the server sent, or how the stream ended.
    fn hear(
        &mut self,
        answer: Result<Option<v1::StreamUsageResponse>, Status>,
    ) -> Result<(), Error> {
        let message = match answer {
            Ok(Some(message)) => message,
            Ok(None) => {
                return self.lose(Error::local(
                    Code::Unavailable,
                    "the server closed the stream",
                ));
            }
            Err(status) => return self.lose(status.into()),
        };
        self.heard = Instant::now();
        let mut again = None;
        for result in message.results {
            match self.pending.settle(result) {
                Settled::Again(error) => again = Some(error),
                Settled::Resolved => {
                    self.backoff.reset();
                    self.faults = 0;
                }
                Settled::Unknown => {}
            }
        }
        if let Some(error) = again {
            self.wake = Instant::now() + self.backoff.next(error.retry_after);
        }
        Ok(())
    }

    /// The stream is lost: everything without result goes again on another one, after a while. Fails
    /// where that would not help.
    fn lose(&mut self, error: Error) -> Result<(), Error> {
        self.link = None;
        let wait = match error.reason {
            Some(ErrorReason::MessageTooLarge) => {
                self.pending.too_large(error);
                Duration::ZERO
            }
            _ if is_final(error.code) => return Err(error),
            _ => {
                let asked = error.retry_after;
                if matches!(error.code, Code::Internal | Code::Unknown | Code::DataLoss) {
                    self.faults += 1;
                    if self.faults >= FAULTS {
                        return Err(error);
                    }
                }
                self.backoff.next(asked)
            }
        };
        self.pending.lost();
        self.wake = Instant::now() + wait;
        Ok(())
    }

    /// Ends the stream in good order: nothing more is sent, and the server closes.
    async fn farewell(mut self) {
        let Some(Link {
            requests,
            mut answers,
        }) = self.link.take()
        else {
            return;
        };
        drop(requests);
        let rest = async { while let Ok(Some(_)) = answers.next().await {} };
        // Everything has its result: how the stream ends changes nothing.
        let _ = timeout(FAREWELL, rest).await;
    }

    /// Ends everything with this error, what is still in the queue too.
    async fn fail(mut self, error: Error) {
        let error = self.ended.get_or_init(|| error).clone();
        self.room.close();
        self.commands.close();
        self.pending.abandon(&error);
        while let Some(command) = self.commands.recv().await {
            match command {
                Command::Record(entry) => entry.abandon(&error),
                Command::Flush(done) => {
                    let _ = done.send(Err(error.clone()));
                }
            }
        }
    }
}

type Permit = mpsc::OwnedPermit<v1::StreamUsageRequest>;

/// Room for one more message; `None` if the stream is gone. Without a stream it waits for ever.
async fn reserve(requests: Option<mpsc::Sender<v1::StreamUsageRequest>>) -> Option<Permit> {
    match requests {
        Some(requests) => requests.reserve_owned().await.ok(),
        None => pending().await,
    }
}

/// What the server says next. Without a stream it waits for ever.
async fn answer(link: Option<&mut Link>) -> Result<Option<v1::StreamUsageResponse>, Status> {
    match link {
        Some(link) => link.answers.next().await,
        None => pending().await,
    }
}

/// Whether a stream that ended with this code would end so again.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::FailedPrecondition
            | Code::NotFound
            | Code::AlreadyExists
            | Code::OutOfRange
    )
}
