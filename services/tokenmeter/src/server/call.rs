//! One call from its arrival to its end: what it is called, how it ended, and for how long it ran.
//!
//! The rule: a call ends once, when its answer's last byte has been handed to the transport, with
//! the code that the caller sees, or as cancelled when the caller went before. Metrics, log and
//! trace all tell that one end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Frame, SizeHint};
use metrics::{counter, gauge, histogram};
use tokenmeter_api::status::code_name;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Span;
use tracing::field::Empty;

use super::metrics::{RPC_DURATION, RPCS, RPCS_IN_FLIGHT};

/// Methods whose calls last as long as their callers want. A test holds it to the contracts.
const STREAMS: [&str; 8] = [
    "MeteringService/StreamUsage",
    "MeteringService/MeterCall",
    "MeteringService/PublishTokenEvents",
    "AnalyticsService/StreamTokenEvents",
    "AnalyticsService/WatchUsage",
    "AnalyticsService/ExportUsage",
    "Health/Watch",
    "ServerReflection",
];

/// The name of a request path in metrics, logs and traces. What a stranger sends is not repeated.
pub(super) fn method_of(path: &str) -> &'static str {
    match path {
        "/grpc.health.v1.Health/Check" => "Health/Check",
        "/grpc.health.v1.Health/Watch" => "Health/Watch",
        path if path.starts_with("/grpc.reflection.v1") => "ServerReflection",
        path => tokenmeter_identity::access(path).map_or("unknown", |access| access.rpc),
    }
}

/// A call that has not ended. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Call {
    method: &'static str,
    id: HeaderValue,
    started: Instant,
    span: Span,
    /// None until the answer says it: a call that is dropped before was cancelled.
    code: Option<Code>,
}

impl Call {
    /// A call that has just arrived.
    pub(super) fn begin(path: &str, id: HeaderValue, headers: &HeaderMap) -> Self {
        let method = method_of(path);
        let span = tracing::debug_span!(
            "rpc",
            otel.name = method,
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system = "grpc",
            rpc.method = method,
            rpc.grpc.status_code = Empty,
            request_id = id.to_str().unwrap_or_default(),
            // Figures of the calls that record; see tokenmeter_metering::metrics::Tally.
            events = Empty,
            recorded = Empty,
            duplicates = Empty,
            refused = Empty,
            prompt_tokens = Empty,
            output_tokens = Empty,
            total_tokens = Empty,
            cost_nano_usd = Empty,
        );
        super::telemetry::continue_trace(&span, headers);
        gauge!(RPCS_IN_FLIGHT, "method" => method).increment(1.0);
        Self {
            method,
            id,
            started: Instant::now(),
            span,
            code: None,
        }
    }

    /// The span of everything that is done for it.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Goes with the answer and ends with it.
    pub(super) fn answer(mut self, response: Response<Body>) -> Response<Body> {
        if let Some(code) = code_in(response.headers()) {
            // Failed before it had a body.
            self.code = Some(code);
            return response;
        }
        response.map(|body| Body::new(Answer { body, call: self }))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        let elapsed = self.started.elapsed();
        gauge!(RPCS_IN_FLIGHT, "method" => self.method).decrement(1.0);
        counter!(RPCS, "method" => self.method, "code" => code_name(code)).increment(1);
        if !STREAMS.contains(&self.method) {
            histogram!(RPC_DURATION, "method" => self.method).record(elapsed);
        }
        self.span.record("rpc.grpc.status_code", code as i32);
        let elapsed_us = i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX);
        let _entered = self.span.enter();
        if matches!(code, Code::Internal | Code::Unknown | Code::DataLoss) {
            self.span.record("otel.status_code", "ERROR");
            // The span is there at debug only; whoever looks for a failed call needs its id.
            let request_id = self.id.to_str().unwrap_or_default();
            let method = self.method;
            tracing::error!(
                code = code_name(code),
                elapsed_us,
                method,
                request_id,
                "rpc failed"
            );
        } else {
            tracing::debug!(code = code_name(code), elapsed_us, "rpc ended");
        }
    }
}

/// The body of an answer, which knows its code when its trailers pass.
struct Answer {
    body: Body,
    call: Call,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, call } = &mut *self;
        let _entered = call.span.enter();
        let frame = Pin::new(body).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(code) = frame.trailers_ref().and_then(code_in) {
                    call.code = Some(code);
                }
            }
            Poll::Ready(Some(Err(status))) => call.code = Some(status.code()),
            Poll::Ready(None) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The code in headers or trailers.
fn code_in(headers: &HeaderMap) -> Option<Code> {
    let code = headers.get(Status::GRPC_STATUS)?;
    Some(Code::from_bytes(code.as_bytes()))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn streams_are_those_of_the_contracts() {
        let set = prost_types::FileDescriptorSet::decode(tokenmeter_api::FILE_DESCRIPTOR_SET);
        let mut streams = 0;
        for file in set.unwrap().file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let stream = method.client_streaming() || method.server_streaming();
                    assert_ne!(method_of(&path), "unknown", "{path}");
                    assert_eq!(STREAMS.contains(&method_of(&path)), stream, "{path}");
                    streams += usize::from(stream);
                }
            }
        }
        assert_eq!(streams, STREAMS.len() - 2, "two are not ours");
    }

    #[test]
    fn what_a_stranger_asks_for_is_not_repeated() {
        for path in ["/", "/a/b", "/tokenmeter.v1.MeteringService/Secret"] {
            assert_eq!(method_of(path), "unknown");
        }
    }
}
