//! Delivery to the store: the same events again until each has an outcome, or patience ends.

use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokenmeter_api::status::failure_of;
use tokenmeter_api::v1;
use tokenmeter_api::v1::ErrorReason;
use tokenmeter_api::v1::record_result::Result as Outcome;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use crate::cli::error::{Error, describe};

/// The first pause before a retry.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause that is chosen here; a server may ask for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What an import needs of a server.
pub(super) trait Store {
    /// Records events; one result each, in their order.
    async fn record(&self, events: Vec<v1::UsageEvent>) -> Result<Vec<v1::RecordResult>, Status>;
    /// Lists recorded events.
    async fn list(
        &self,
        request: v1::ListUsageEventsRequest,
    ) -> Result<v1::ListUsageEventsResponse, Status>;
    /// Which user an empty user means.
    async fn caller(&self) -> Result<String, Status>;
}

/// How long to go on.
pub(super) struct Retry {
    /// How long without any success.
    pub(super) keep_trying: Duration,
    /// Is told why there is a pause, and nothing when it is over.
    pub(super) notice: Box<dyn Fn(&str)>,
}

impl Retry {
    /// Begins to count failures.
    fn patience(&self) -> Patience<'_> {
        Patience {
            retry: self,
            failing_since: None,
            pause: FIRST_PAUSE,
        }
    }

    /// Calls until the answer is no failure that may pass.
    pub(super) async fn call<T, F: Future<Output = Result<T, Status>>>(
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

/// One row of failures.
struct Patience<'a> {
    retry: &'a Retry,
    failing_since: Option<Instant>,
    pause: Duration,
}

impl Patience<'_> {
    fn success(&mut self) {
        if self.failing_since.take().is_some() {
            (self.retry.notice)("");
        }
        self.pause = FIRST_PAUSE;
    }

    /// Waits, twice as long each time and with jitter; an error when patience has ended.
    async fn pause(&mut self, cause: &str, asked: Option<Duration>) -> Result<(), Error> {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let left = self.retry.keep_trying.saturating_sub(since.elapsed());
        if left.is_zero() {
            return Err(Error::Input(format!(
                "gave up after {} s: {cause}; the same command again goes on from here",
                self.retry.keep_trying.as_secs()
            )));
        }
        (self.retry.notice)(&format!("(retrying: {cause})"));
        let half = self.pause / 2;
        let pause = asked.unwrap_or_default().max(half + jitter(half));
        sleep(pause.min(left)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// A random part of `most`.
fn jitter(most: Duration) -> Duration {
    let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(RandomState::new().hash_one(()) % micros.max(1))
}

/// Whether the same request may succeed later. Ids make it safe to send again.
fn may_pass(status: &Status) -> bool {
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
fn is_too_large(status: &Status) -> bool {
    match failure_of(status) {
        Some(failure) => failure.reason == ErrorReason::MessageTooLarge,
        None => {
            matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted)
                && status.message().contains("too large")
        }
    }
}

/// Delivers events: one outcome each, in their order. Outcomes that may change with a retry are
/// not among them.
pub(super) async fn deliver<S: Store>(
    store: &S,
    retry: &Retry,
    events: &[v1::UsageEvent],
) -> Result<Vec<Outcome>, Error> {
    let mut outcomes: Vec<Option<Outcome>> = vec![None; events.len()];
    let mut open: Vec<usize> = (0..events.len()).collect();
    let mut most = events.len();
    let mut patience = retry.patience();
    while !open.is_empty() {
        let part: Vec<usize> = open.iter().copied().take(most).collect();
        let request = part.iter().map(|n| events[*n].clone()).collect();
        match store.record(request).await {
            Ok(results) => {
                if results.len() != part.len() {
                    let text = "the server answered another number of results than it was asked";
                    return Err(Error::Input(text.into()));
                }
                let refused = take(&part, results, &mut outcomes)?;
                open.retain(|n| outcomes[*n].is_none());
                match refused {
                    Some((cause, asked)) => patience.pause(&cause, asked).await?,
                    None => patience.success(),
                }
            }
            Err(status) if is_too_large(&status) => {
                if most == 1 {
                    outcomes[part[0]] = Some(Outcome::Error(v1::ItemError {
                        reason: ErrorReason::MessageTooLarge.into(),
                        message: "the event is larger than the server takes".into(),
                        ..Default::default()
                    }));
                    open.remove(0);
                }
                most = (part.len() / 2).max(1);
            }
            Err(status) if may_pass(&status) => {
                let asked = failure_of(&status).and_then(|failure| failure.retry_after);
                patience.pause(&describe(&status), asked).await?;
            }
            Err(status) => return Err(status.into()),
        }
    }
    Ok(outcomes.into_iter().flatten().collect())
}

/// Files the results of the events `part`. Answers why the first that may pass was refused, and
/// how long to wait.
fn take(
    part: &[usize],
    results: Vec<v1::RecordResult>,
    outcomes: &mut [Option<Outcome>],
) -> Result<Option<(String, Option<Duration>)>, Error> {
    let mut refused = None;
    for (n, result) in part.iter().zip(results) {
        match result.result {
            Some(Outcome::Error(error)) if error.retryable => {
                let after = error.retry_after_ms.and_then(|ms| u64::try_from(ms).ok());
                refused.get_or_insert((error.message, after.map(Duration::from_millis)));
            }
            Some(outcome) => outcomes[*n] = Some(outcome),
            None => {
                let text = "the server answered an outcome that this version does not know";
                return Err(Error::Input(text.into()));
            }
        }
    }
    Ok(refused)
}
