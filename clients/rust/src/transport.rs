//! What every call goes through on its way to the connection: it says who asks, gets a deadline, and
//! is sent again where [`rpcs`](crate::rpcs) says that this is safe.
//!
//! A unary call is repeated on UNAVAILABLE, on DEADLINE_EXCEEDED from the server, on
//! RESOURCE_EXHAUSTED with RetryInfo, and when its connection is lost. The deadline is of the call
//! with all its attempts. Streams pass through as they are.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Full, Limited};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, StdError};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::error::{Error, has_timed_out};
use crate::rpcs::{self, Repeat};

/// The header with the time that a call may take.
const TIMEOUT: &str = "grpc-timeout";
/// How far the ends of one time may lie apart on two sides: timers are in milliseconds.
const CLOCKS: Duration = Duration::from_millis(5);
/// What an answer may be longer on the wire than the message in it.
const FRAMING_BYTES: usize = 64 * 1024;

/// How calls are made; of one client.
#[derive(Debug)]
pub(crate) struct Manner {
    pub(crate) caller: MetadataMap,
    pub(crate) deadline: Duration,
    pub(crate) attempts: u32,
    pub(crate) first_wait: Duration,
    pub(crate) longest_wait: Duration,
    pub(crate) max_message_bytes: usize,
}

/// The connection, for the generated clients.
#[derive(Debug, Clone)]
pub struct Transport {
    channel: Channel,
    manner: Arc<Manner>,
}

impl Transport {
    pub(crate) fn new(channel: Channel, manner: Manner) -> Self {
        Self {
            channel,
            manner: Arc::new(manner),
        }
    }

    /// Sends one request once.
    async fn send(
        &mut self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, tonic::transport::Error> {
        poll_fn(|cx| self.channel.poll_ready(cx)).await?;
        self.channel.call(request).await
    }

    /// Sends one request once and reads all of its answer.
    async fn attempt(
        &mut self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Collected<Bytes>>, StdError> {
        let limit = self.manner.max_message_bytes.saturating_add(FRAMING_BYTES);
        let (head, body) = self.send(request).await?.into_parts();
        let body = Limited::new(body, limit).collect().await?;
        Ok(http::Response::from_parts(head, body))
    }

    /// Makes a unary call, in as many attempts as its deadline and the client's bound let it.
    async fn unary(
        mut self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, StdError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let allowed = timeout_of(&head.headers).unwrap_or(self.manner.deadline);
        let deadline = Instant::now() + allowed;
        let manner = Arc::clone(&self.manner);
        let mut backoff = Backoff::new(manner.first_wait, manner.longest_wait);
        let repeatable = rpcs::repeat(head.uri.path()) != Repeat::Never;
        let mut attempt = 1;
        loop {
            let mut head = head.clone();
            let left = deadline.saturating_duration_since(Instant::now());
            head.headers.insert(TIMEOUT, timeout_header(left));
            let request = http::Request::from_parts(head, Body::new(Full::new(body.clone())));
            let Ok(outcome) = timeout_at(deadline, self.attempt(request)).await else {
                return Ok(deadline_exceeded(allowed).into_http());
            };
            let (retry, asked) = match &outcome {
                // The server keeps the same time, and may be the first to end the call; one that
                // ends it earlier has another cause, and says it.
                Ok(answer) if code_of(answer) == Some(Code::Cancelled) && is_over(deadline) => {
                    return Ok(deadline_exceeded(allowed).into_http());
                }
                // So does the channel.
                Err(error) if has_timed_out(&**error) => {
                    return Ok(deadline_exceeded(allowed).into_http());
                }
                Ok(answer) => retryable(answer),
                Err(error) => (!is_local(error), None),
            };
            let wake = Instant::now() + backoff.next(asked);
            if !retry || !repeatable || attempt >= manner.attempts || wake >= deadline {
                return outcome.map(|answer| answer.map(Body::new));
            }
            sleep_until(wake).await;
            attempt += 1;
        }
    }
}

impl Service<http::Request<Body>> for Transport {
    type Response = http::Response<Body>;
    type Error = StdError;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The channel is waited for within the call, so that the deadline covers it.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let mut transport = self.clone();
        for (name, value) in transport.manner.caller.clone().into_headers() {
            if let Some(name) = name {
                request.headers_mut().entry(name).or_insert(value);
            }
        }
        let path = request.uri().path();
        if rpcs::repeat(path) == Repeat::Never {
            Box::pin(async move { Ok(transport.send(request).await?) })
        } else {
            Box::pin(transport.unary(request))
        }
    }
}

/// The status of an answer, which is in its trailers, or in its headers if there is nothing else.
fn status_of(answer: &http::Response<Collected<Bytes>>) -> Option<Status> {
    answer
        .body()
        .trailers()
        .and_then(Status::from_header_map)
        .or_else(|| Status::from_header_map(answer.headers()))
}

fn code_of(answer: &http::Response<Collected<Bytes>>) -> Option<Code> {
    status_of(answer).map(|status| status.code())
}

/// Whether an answer is a refusal that may be of another kind next time, and when that is.
fn retryable(answer: &http::Response<Collected<Bytes>>) -> (bool, Option<Duration>) {
    match status_of(answer) {
        Some(status) if status.code() != Code::Ok => {
            let error = Error::from(status);
            (error.is_retryable(), error.retry_after)
        }
        Some(_) => (false, None),
        // A proxy's own answer, such as 502 and 503, which gRPC takes as UNAVAILABLE.
        None => (matches!(answer.status().as_u16(), 429 | 502..=504), None),
    }
}

/// Whether a failed attempt failed on this side, and would again.
fn is_local(error: &StdError) -> bool {
    error.is::<http_body_util::LengthLimitError>()
}

/// Whether a call's time is over, as far as two sides can agree on it.
fn is_over(deadline: Instant) -> bool {
    Instant::now() + CLOCKS >= deadline
}

fn deadline_exceeded(allowed: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within {} ms", allowed.as_millis()))
}

/// The time as `grpc-timeout` has it: at most 8 digits and a unit.
fn timeout_header(time: Duration) -> http::HeaderValue {
    const MAX: u128 = 99_999_999;
    let text = match time.as_micros() {
        micros if micros <= MAX => format!("{micros}u"),
        _ if time.as_millis() <= MAX => format!("{}m", time.as_millis()),
        _ => format!("{}S", u128::from(time.as_secs()).min(MAX)),
    };
    http::HeaderValue::try_from(text).unwrap_or(http::HeaderValue::from_static("0u"))
}

/// The time that the caller gave this call by `Request::set_timeout`.
fn timeout_of(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3_600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_written_as_it_is_read() {
        for time in [
            Duration::ZERO,
            Duration::from_micros(99_999_999),
            Duration::from_secs(3_600),
            Duration::from_secs(99_999_999),
        ] {
            let mut headers = http::HeaderMap::new();
            headers.insert(TIMEOUT, timeout_header(time));
            assert_eq!(timeout_of(&headers), Some(time));
        }
        for wrong in ["", "S", "7", "7x", "-1S", "ü"] {
            let mut headers = http::HeaderMap::new();
            headers.insert(
                TIMEOUT,
                http::HeaderValue::from_bytes(wrong.as_bytes()).unwrap(),
            );
            assert_eq!(timeout_of(&headers), None, "{wrong}");
        }
    }
}
