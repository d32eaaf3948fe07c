//! Trying again: what may pass, how long between two tries, and when to give up.

use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokenmeter_api::status::failure_of;
use tokenmeter_api::v1::ErrorReason;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use super::error::{Error, describe};
use super::render::note;

/// The first pause before a retry.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause that is chosen here; a server may ask for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long to go on.
pub(crate) struct Retry {
    /// How long without any success.
    pub(crate) keep_trying: Duration,
    /// Is told why there is a pause, and nothing when it is over.
    pub(crate) notice: Box<dyn Fn(&str)>,
}

impl Retry {
    /// Patience for so long, with a line on standard error for every failure.
    pub(crate) fn with_notes(keep_trying: Duration) -> Self {
        let notice = Box::new(|cause: &str| {
            if !cause.is_empty() {
                note(cause);
            }
        });
        Self {
            keep_trying,
            notice,
        }
    }

    /// Begins to count failures.
    pub(crate) fn patience(&self) -> Patience<'_> {
        Patience {
            retry: self,
            failing_since: None,
            pause: FIRST_PAUSE,
        }
    }

    /// Calls until the answer is no failure that may pass.
    pub(crate) async fn call<T, F: Future<Output = Result<T, Status>>>(
        &self,
        mut call: impl FnMut() -> F,
    ) -> Result<T, Error> {
        let mut patience = self.patience();
        loop {
            match call().await {
                Ok(answer) => {
                    patience.success();
                    return Ok(answer);
                }
                Err(status) if may_pass(&status) => {
                    let asked = failure_of(&status).and_then(|failure| failure.retry_after);
                    patience.pause(&describe(&status), asked).await?;
                }
                Err(status) => return Err(status.into()),
            }
        }
    }
}

/// One row of failures, and how long they may go on.
pub(crate) struct Patience<'a> {
    retry: &'a Retry,
    failing_since: Option<Instant>,
    pause: Duration,
}

impl Patience<'_> {
    /// Ends the row of failures.
    pub(crate) fn success(&mut self) {
        if self.failing_since.take().is_some() {
            (self.retry.notice)("");
        }
        self.pause = FIRST_PAUSE;
    }

    /// Waits, twice as long each time and with jitter; an error when patience has ended.
    pub(crate) async fn pause(
        &mut self,
        cause: &str,
        asked: Option<Duration>,
    ) -> Result<(), Error> {
        match self.wait(cause, asked).await {
            true => Ok(()),
            false => Err(Error::Input(format!(
                "gave up after {} s: {cause}; the same command again goes on from here",
                self.retry.keep_trying.as_secs()
            ))),
        }
    }

    /// Waits as [`pause`](Self::pause) does; false when patience has ended, for a command that has
    /// something else to say then.
    pub(crate) async fn wait(&mut self, cause: &str, asked: Option<Duration>) -> bool {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let left = self.retry.keep_trying.saturating_sub(since.elapsed());
        if left.is_zero() {
            return false;
        }
        (self.retry.notice)(&format!("(retrying: {cause})"));
        let half = self.pause / 2;
        let pause = asked.unwrap_or_default().max(half + jitter(half));
        sleep(pause.min(left)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// A random part of `most`.
fn jitter(most: Duration) -> Duration {
    let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(RandomState::new().hash_one(()) % micros.max(1))
}

/// Whether the same request may succeed later. Ids make it safe to send again.
pub(crate) fn may_pass(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal => true,
        Code::ResourceExhausted => !is_too_large(status),
        _ => false,
    }
}

/// Whether the message was larger than the server takes. A server says so itself, or its
/// transport does, which knows no reasons.
pub(crate) fn is_too_large(status: &Status) -> bool {
    match failure_of(status) {
        Some(failure) => failure.reason == ErrorReason::MessageTooLarge,
        None => {
            matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted)
                && status.message().contains("too large")
        }
    }
}
