//! Watching what is recorded, through any number of lost connections.
//!
//! The rule of this module: the token of the last response handed out is kept, and every connection
//! begins with it. All waiting is until a moment that is remembered, so that a `next` that is dropped
//! early loses nothing.

use std::future::Future;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokenmeter_api::v1::{self, ErrorReason};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Code, Status, Streaming};

use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, Result};

pub use v1::stream_token_events_response::Event;

/// A stream without any response for this long is lost. The server sends a heartbeat after 15
/// seconds of silence.
const SILENCE: Duration = Duration::from_secs(45);
/// The waits before connecting again.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The longest that a server may ask to wait before connecting again.
const LONGEST_ASKED: Duration = Duration::from_secs(60);
/// How often in a row the server may fail by its own fault.
const FAULTS: u32 = 5;
/// Where RESUME_TOKEN_EXPIRED carries the token to go on with.
const OLDEST_TOKEN: &str = "oldest_resume_token";

/// A subscription that connects again by itself and misses no recorded usage, void or reprice.
///
/// Lost connections, a server that shuts down, and heartbeats are dealt with inside. What
/// [`next`](Self::next) fails with is what needs a decision:
///
/// - RESUME_TOKEN_EXPIRED: the server no longer keeps what came after the token. Read the missed
///   range with `ListUsageEvents`, then go on with [`resume_from`](Self::resume_from) and the token
///   of [`oldest_token`]; or begin anew with an empty one, which leaves the gap.
/// - Any other error would come again on the next connection too, such as PERMISSION_DENIED. Calling
///   `next` once more tries.
///
/// To survive an end of the program, keep [`resume_token`](Self::resume_token) *after* an event has
/// been processed, and begin with it. A subscription without a token begins when the server has taken
/// it; until the first response has come there is no token, and what happens between two attempts to
/// connect is not seen. [`begin`](Self::begin) waits for that response.
///
/// ```no_run
/// # async fn example(client: tokenmeter_client::Client) -> tokenmeter_client::Result<()> {
/// use tokenmeter_client::{Event, v1};
///
/// let mut events = client.events(v1::EventFilter::default(), "");
/// loop {
///     match events.next().await? {
///         Event::UsageRecorded(event) => println!("{} recorded", event.event_id),
///         Event::UsageVoided(void) => println!("{:?} voided", void.event),
///         _ => {}
///     }
///     // A program that must not miss anything stores events.resume_token() here.
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct TokenEvents {
    client: Client,
    filter: v1::EventFilter,
    token: String,
    /// How often the server is to send a heartbeat; none leaves it to the server.
    heartbeat: Option<Duration>,
    /// What `begin` read and `next` has still to hand out.
    held: Option<v1::StreamTokenEventsResponse>,
    stream: Option<Streaming<v1::StreamTokenEventsResponse>>,
    backoff: Backoff,
    /// Nothing is opened before.
    wake: Instant,
    /// When the stream of now is lost unless something comes.
    lost_at: Instant,
    /// Failures by the server's own fault since the last response.
    faults: u32,
}

impl TokenEvents {
    pub(crate) fn new(client: Client, filter: v1::EventFilter, token: String) -> Self {
        let now = Instant::now();
        Self {
            client,
            filter,
            token,
            heartbeat: None,
            held: None,
            stream: None,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            wake: now,
            lost_at: now,
            faults: 0,
        }
    }

    /// Asks for a heartbeat after this silence, 1 to 60 seconds, instead of 15. A stream counts as
    /// lost after three of them, and not before 45 seconds.
    #[must_use]
    pub fn heartbeat(mut self, silence: Duration) -> Self {
        let bounds = (Duration::from_secs(1), Duration::from_secs(60));
        self.heartbeat = Some(silence.clamp(bounds.0, bounds.1));
        self
    }

    /// Waits until the subscription has a token, so that from here on nothing is missed, whatever
    /// becomes of the connection. That is the first response: with nothing recorded, the first
    /// heartbeat. A subscription that began with a token has one. Fails as [`next`](Self::next) does.
    pub async fn begin(&mut self) -> Result<()> {
        while self.token.is_empty() && self.held.is_none() {
            match self.response().await {
                // A sign of life is done with at once; an event is not, until `next` answers it.
                Ok(response) => match response.event {
                    Some(Event::Heartbeat(_)) | None => self.token = response.resume_token,
                    Some(_) => self.held = Some(response),
                },
                Err(error) => self.lose(error)?,
            }
        }
        Ok(())
    }

    /// The token that continues after the last event that [`next`](Self::next) answered, heartbeats
    /// since included. Empty as long as there was no response, or only one that `begin` keeps for
    /// [`next`](Self::next).
    pub fn resume_token(&self) -> &str {
        &self.token
    }

    /// Goes on from this token, or from now if it is empty, with the next call of `next`.
    pub fn resume_from(&mut self, token: impl Into<String>) {
        self.token = token.into();
        self.held = None;
        self.stream = None;
        self.wake = Instant::now();
        self.backoff.reset();
        self.faults = 0;
    }

    /// The next event: waits for it, connecting as often as that takes. Fails with what connecting
    /// again does not mend. May be dropped at any time, as in `select!`, without losing an event.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            let response = match self.held.take() {
                Some(response) => response,
                None => match self.response().await {
                    Ok(response) => response,
                    Err(error) => {
                        self.lose(error)?;
                        continue;
                    }
                },
            };
            self.token = response.resume_token;
            match response.event {
                Some(Event::Reconnect(reconnect)) => {
                    let after = u64::try_from(reconnect.after_ms).unwrap_or_default();
                    let after = Duration::from_millis(after).min(LONGEST_ASKED);
                    self.stream = None;
                    self.wake = Instant::now() + after;
                }
                // The stream lives; or its kind is of a newer server.
                Some(Event::Heartbeat(_)) | None => {}
                Some(event) => return Ok(event),
            }
        }
    }

    /// The subscription as a `Stream`, which ends after its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Event>> {
        stream::unfold(Some(self), |events| async {
            let mut events = events?;
            match events.next().await {
                Ok(event) => Some((Ok(event), Some(events))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// The next response of the stream, which is opened if there is none.
    async fn response(&mut self) -> Result<v1::StreamTokenEventsResponse> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                sleep_until(self.wake).await;
                self.lost_at = Instant::now() + self.silence();
                let heartbeat = self.heartbeat.map(prost_types::Duration::try_from);
                let request = v1::StreamTokenEventsRequest {
                    filter: Some(self.filter.clone()),
                    resume_token: self.token.clone(),
                    heartbeat_interval: heartbeat.and_then(std::result::Result::ok),
                };
                let mut analytics = self.client.analytics();
                let opening = analytics.stream_token_events(request);
                let open = in_time(self.lost_at, opening).await?;
                self.stream.insert(open.into_inner())
            }
        };
        match in_time(self.lost_at, stream.message()).await? {
            Some(response) => {
                self.backoff.reset();
                self.faults = 0;
                self.lost_at = Instant::now() + self.silence();
                Ok(response)
            }
            None => Err(Error::local(
                Code::Unavailable,
                "the server closed the stream",
            )),
        }
    }

    /// How long a stream may be without any response.
    fn silence(&self) -> Duration {
        let three = self.heartbeat.unwrap_or_default().saturating_mul(3);
        SILENCE.max(three)
    }

    /// The stream is lost: the next one is opened after a while. Fails where that would not help.
    fn lose(&mut self, error: Error) -> Result<()> {
        self.stream = None;
        let fault = matches!(error.code, Code::Internal | Code::Unknown | Code::DataLoss);
        self.faults += u32::from(fault);
        let busy = error.code == Code::ResourceExhausted
            && error.reason != Some(ErrorReason::MessageTooLarge);
        let again = error.is_retryable() || busy || (fault && self.faults < FAULTS);
        self.wake = Instant::now() + self.backoff.next(error.retry_after);
        if again { Ok(()) } else { Err(error) }
    }
}

/// The token to go on with after RESUME_TOKEN_EXPIRED; `None` of any other error.
pub fn oldest_token(error: &Error) -> Option<&str> {
    (error.reason == Some(ErrorReason::ResumeTokenExpired))
        .then(|| error.metadata.get(OLDEST_TOKEN))?
        .map(String::as_str)
}

/// Waits no longer than until the stream counts as lost.
async fn in_time<T>(
    lost_at: Instant,
    answer: impl Future<Output = std::result::Result<T, Status>>,
) -> Result<T> {
    match timeout_at(lost_at, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::local(
            Code::Unavailable,
            "the stream was silent for too long",
        )),
    }
}
