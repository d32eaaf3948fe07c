//! The outermost layer: a bound on calls at once, a request id and a span for each call, and an
//! error that names its bound where the transport's own would not.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use tokenmeter_api::codec;
use tokenmeter_api::status::Failure;
use tokenmeter_api::v1::ErrorReason;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::call::Call;

/// Metadata that carries a request id, in and out.
const REQUEST_ID: &str = "x-request-id";
/// Longest request id that is taken over from the caller, in bytes.
const MAX_REQUEST_ID: usize = 128;
/// When a caller that met the bound on calls may come back.
const RETRY_SOON: Duration = Duration::from_millis(100);

/// Adds [`GuardService`].
#[derive(Debug, Clone)]
pub(crate) struct GuardLayer {
    calls: Arc<Semaphore>,
    max_calls: usize,
    draining: CancellationToken,
    max_message_bytes: usize,
    timeout: Duration,
    /// Distinguishes request ids of one process.
    seed: u64,
    issued: Arc<AtomicU64>,
}

impl GuardLayer {
    /// Lets `max_calls` calls through at once.
    pub(crate) fn new(
        max_calls: usize,
        max_message_bytes: usize,
        timeout: Duration,
        draining: CancellationToken,
    ) -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        Self {
            calls: Arc::new(Semaphore::new(max_calls)),
            max_calls,
            draining,
            max_message_bytes,
            timeout,
            seed: RandomState::new().hash_one(std::process::id()),
            issued: Arc::default(),
        }
    }

    /// Resolves when no call is open. Calls that come meanwhile are refused, because those that end
    /// leave their places to this.
    pub(crate) async fn drained(&self) {
        let all = u32::try_from(self.max_calls).unwrap_or(u32::MAX);
        // Fails only for a closed semaphore, and nothing closes this one.
        let _ = self.calls.acquire_many(all).await;
    }

    /// The caller's request id, or a new one.
    fn request_id(&self, headers: &HeaderMap) -> HeaderValue {
        if let Some(id) = headers.get(REQUEST_ID)
            && (1..=MAX_REQUEST_ID).contains(&id.len())
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
        {
            return id.clone();
        }
        let id = format!(
            "{:016x}{:08x}",
            self.seed,
            self.issued.fetch_add(1, Ordering::Relaxed)
        );
        HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = GuardService<S>;

    fn layer(&self, inner: S) -> GuardService<S> {
        GuardService {
            inner,
            guard: self.clone(),
        }
    }
}

/// Guards every call.
#[derive(Debug, Clone)]
pub(crate) struct GuardService<S> {
    inner: S,
    guard: GuardLayer,
}

impl<S, B> Service<Request<B>> for GuardService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let id = self.guard.request_id(request.headers());
        let path = request.uri().path();
        let call = Call::begin(path, id.clone(), request.headers());
        // Health has to answer above all when everything else is busy.
        let bounded = path.starts_with("/tokenmeter.");
        let place = if bounded {
            match Arc::clone(&self.guard.calls).try_acquire_owned() {
                Ok(place) => Some(place),
                Err(_) => {
                    let response = refused(id, self.guard.draining.is_cancelled());
                    return Box::pin(std::future::ready(Ok(call.answer(response))));
                }
            }
        } else {
            None
        };
        let span = call.span();
        let max_message_bytes = self.guard.max_message_bytes;
        let timeout = self.guard.timeout;
        let answer = span.in_scope(|| self.inner.call(request));
        let guarded = async move {
            let mut response = match tokio::time::timeout(timeout, answer).await {
                Ok(answer) => answer?,
                Err(_) => timed_out(timeout),
            };
            drop(place);
            if let Some(better) = too_large(&response, max_message_bytes) {
                response = better;
            } else if let Some(better) = bare(&response).filter(|_| bounded) {
                response = better;
            }
            response.headers_mut().insert(REQUEST_ID, id);
            Ok(call.answer(response))
        };
        Box::pin(guarded.instrument(span))
    }
}

/// The code of an answer that failed before it had a body; OK otherwise.
fn code(response: &Response<Body>) -> Code {
    response
        .headers()
        .get(Status::GRPC_STATUS)
        .map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// The answer to a call that has no place.
fn refused(id: HeaderValue, draining: bool) -> Response<Body> {
    let failure = if draining {
        let text = "the server is shutting down; nothing was changed, connect again";
        Failure::new(ErrorReason::ShuttingDown, text)
    } else {
        let text = "too many calls at once; nothing was changed, retry later";
        Failure::new(ErrorReason::Overloaded, text).retry_after(RETRY_SOON)
    };
    let mut response = Status::from(failure).into_http();
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// A message past the bound, told in the words of the contract.
fn too_large(response: &Response<Body>, max_message_bytes: usize) -> Option<Response<Body>> {
    if !matches!(code(response), Code::OutOfRange | Code::ResourceExhausted) {
        return None;
    }
    let status = Status::from_header_map(response.headers())?;
    let failure = codec::too_large(&status, max_message_bytes)?;
    Some(Status::from(failure).into_http())
}

/// The answer to a call that took too long. Streams answer at once; their length is their own.
fn timed_out(timeout: Duration) -> Response<Body> {
    let text = format!(
        "the call took longer than {} ms; it may have been applied, send it again with the same ids",
        timeout.as_millis()
    );
    Status::from(Failure::new(ErrorReason::TimedOut, text)).into_http()
}

/// What the transport refuses by itself, such as an RPC or an encoding that nobody knows, has no
/// details; the contract says that every failure names its reason.
fn bare(response: &Response<Body>) -> Option<Response<Body>> {
    let code = code(response);
    if code == Code::Ok || response.headers().contains_key("grpc-status-details-bin") {
        return None;
    }
    let status = Status::from_header_map(response.headers())?;
    let failure = match (code, status.message()) {
        (Code::Unimplemented, "") => Failure::new(
            ErrorReason::NotYetImplemented,
            "there is no such RPC in this version",
        ),
        (Code::Unimplemented, text) => Failure::new(ErrorReason::FieldInvalid, text).violation(
            "metadata.grpc-encoding",
            "is not known; send identity, gzip or zstd",
        ),
        (Code::InvalidArgument | Code::Internal, text) => {
            Failure::new(ErrorReason::MessageUndecodable, text)
        }
        _ => return None,
    };
    let mut better = Status::from(failure).into_http();
    // The transport's own headers, such as the encodings that it takes, stay.
    for (name, value) in response.headers() {
        if !better.headers().contains_key(name) {
            better.headers_mut().insert(name.clone(), value.clone());
        }
    }
    Some(better)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_visible_ascii_is_taken_over_as_a_request_id() {
        let guard = GuardLayer::new(1, 1, Duration::ZERO, CancellationToken::new());
        let of = |id: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
            guard.request_id(&headers)
        };
        let longest = [b'x'; MAX_REQUEST_ID];
        for id in [&b"!a-7~"[..], &longest] {
            assert_eq!(of(id), id);
        }
        let long = [b'x'; MAX_REQUEST_ID + 1];
        for id in [&b""[..], b"a b", b" ", b"a\tb", b"caf\xc3\xa9", &long] {
            let made = of(id);
            assert_ne!(made, id);
            assert!(
                made.as_bytes().iter().all(u8::is_ascii_hexdigit),
                "{made:?}"
            );
        }
    }
}
