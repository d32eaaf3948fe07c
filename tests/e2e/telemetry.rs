//! Logs and traces: what they have to say of a call, and what they must never say.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value as Json;
use tokenmeter_api::v1;
use tokenmeter_tests::{Server, Start};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::bad_events::{TEXTS, label};
use crate::support::{Clients, EVENT_NANO_USD, EVENT_TOKENS, event, openai};

/// A text that no log may hold.
const MARKER: &str = "Zq7MARKERq7Z";

/// An OTLP receiver that keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts one; answers its endpoint.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let serving = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(serving);
        (collector, endpoint)
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap().clone();
        let resources = requests.into_iter().flat_map(|one| one.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }
}

fn attribute(span: &Span, key: &str) -> Value {
    let found = span.attributes.iter().find(|one| one.key == key);
    let found = found.unwrap_or_else(|| panic!("no {key}: {span:#?}"));
    found.value.clone().unwrap().value.unwrap()
}

/// A call with a request id and the caller's trace.
fn traced(events: Vec<v1::UsageEvent>) -> Request<v1::BatchRecordUsageRequest> {
    let mut request = Request::new(v1::BatchRecordUsageRequest {
        events,
        ..Default::default()
    });
    for (key, value) in [
        ("x-request-id", "req-7"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ] {
        request.metadata_mut().insert(key, value.parse().unwrap());
    }
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_a_span_of_its_callers_trace_with_its_figures() {
    let (collector, endpoint) = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut server = Start::new(folder.path())
        .argument(format!("--otlp-endpoint={endpoint}"))
        .serve();
    let mut clients = Clients::of(&server).await;
    let batch = vec![event("a"), event("a"), event("b"), event("")];
    let answer = clients.metering.batch_record_usage(traced(batch)).await;
    assert_eq!(answer.unwrap().into_inner().results.len(), 4);
    drop(clients);
    assert!(server.terminate().success());

    let spans = collector.spans();
    let [span] = &spans[..] else {
        panic!("one call, {} spans: {spans:#?}", spans.len());
    };
    assert_eq!(span.name, "MeteringService/BatchRecordUsage");
    assert_eq!(
        span.trace_id,
        0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes()
    );
    assert_eq!(span.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    let text = |key| match attribute(span, key) {
        Value::StringValue(text) => text,
        other => panic!("{key}: {other:?}"),
    };
    assert_eq!(text("request_id"), "req-7");
    assert_eq!(text("rpc.method"), "MeteringService/BatchRecordUsage");
    for (key, figure) in [
        ("rpc.grpc.status_code", 0),
        ("events", 4),
        ("recorded", 2),
        ("duplicates", 1),
        ("refused", 1),
        ("total_tokens", 2 * EVENT_TOKENS),
        ("output_tokens", 2 * 85),
        ("prompt_tokens", 2 * (EVENT_TOKENS - 85)),
        ("cost_nano_usd", 2 * EVENT_NANO_USD),
    ] {
        assert_eq!(attribute(span, key), Value::IntValue(figure), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_unless_an_endpoint_is_set() {
    let (collector, endpoint) = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut server = Start::new(folder.path())
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .serve();
    let mut clients = Clients::of(&server).await;
    clients.record(event("a")).await.unwrap();
    drop(clients);
    assert!(server.terminate().success());
    assert_eq!(collector.spans(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_does_not_answer_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // Takes connections and never says a word.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap();
    for endpoint in [format!("http://{address}"), "http://127.0.0.1:1".to_owned()] {
        let mut server = Start::new(folder.path())
            .argument(format!("--otlp-endpoint={endpoint}"))
            .serve();
        let mut clients = Clients::of(&server).await;
        let began = Instant::now();
        for n in 0..50 {
            clients.record(event(&format!("{n}"))).await.unwrap();
        }
        // One call that waited for the endpoint would take longer than all.
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{endpoint}: {took:?}");
        drop(clients);
        let began = Instant::now();
        assert!(server.terminate().success());
        let took = began.elapsed();
        assert!(took < Duration::from_secs(15), "{endpoint}: {took:?}");
    }
}

/// Sends the marker wherever a caller can put a text: accepted, refused, and misunderstood.
async fn send_markers(server: &Server) {
    let mut clients = Clients::of(server).await;
    let mut events = Vec::new();
    for (n, (_, set)) in TEXTS.iter().enumerate() {
        for text in [MARKER.to_owned(), MARKER.repeat(100)] {
            let mut one = event(&format!("e-{n}-{}", text.len()));
            set(&mut one, text);
            events.push(one);
        }
    }
    let mut labelled = event("labels");
    labelled.labels = vec![label(MARKER, MARKER), label(format!("{MARKER} "), MARKER)];
    events.push(labelled);
    let mut stranger = event("provider");
    stranger.provider = MARKER.into();
    events.push(stranger);
    let documents = [
        format!(r#"{{"prompt_tokens":1,"completion_tokens":1,"content":"{MARKER}"}}"#),
        format!(
            r#"{{"choices":[{{"message":{{"content":"{MARKER}"}}}}],"usage":{{"{MARKER}":1}}}}"#
        ),
        format!(r#"{{"prompt_tokens":"{MARKER}"}}"#),
        format!(r#"{{"{MARKER}"#),
        format!(r#"["{MARKER}"]"#),
        MARKER.to_owned(),
    ];
    for (n, document) in documents.iter().enumerate() {
        events.push(openai(&format!("document-{n}"), document));
    }
    let mut fate = [0, 0];
    for one in &events {
        fate[usize::from(clients.record(one.clone()).await.is_ok())] += 1;
    }
    assert!(fate[0] > 10 && fate[1] > 10, "refused, recorded: {fate:?}");
    clients.batch(events).await.unwrap();
    // Metadata, page tokens, paths and administration.
    for entry in [
        "authorization",
        "cookie",
        "tokenmeter-user",
        "tokenmeter-roles",
    ] {
        let entries = [(entry, MARKER)];
        clients
            .call_empty("AnalyticsService/GetUserUsage", &entries)
            .await;
    }
    clients.call_empty(&format!("{MARKER}/{MARKER}"), &[]).await;
    let list = v1::ListUsageEventsRequest {
        page_token: MARKER.into(),
        user_id: MARKER.into(),
        ..Default::default()
    };
    clients.analytics.list_usage_events(list).await.unwrap_err();
    let prices = v1::ImportPricesRequest {
        request_id: "r-1".into(),
        content: format!(r#"{{"{MARKER}":"#).into_bytes().into(),
        source: MARKER.into(),
        ..Default::default()
    };
    clients.admin.import_prices(prices).await.unwrap_err();
    // The last of all, so that its log line comes after the others.
    let last = clients
        .metering
        .batch_record_usage(traced(vec![event("last")]));
    last.await.unwrap();
}

/// Serves with everything logged and traced, and answers the log.
async fn log_of_markers(format: &str) -> Vec<String> {
    let (collector, endpoint) = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut server = Start::new(folder.path())
        .argument("--log=trace")
        .argument(format!("--log-format={format}"))
        .argument(format!("--otlp-endpoint={endpoint}"))
        .serve();
    send_markers(&server).await;
    assert!(server.terminate().success());
    let log = server.stderr();
    for told in &log {
        assert!(!told.contains(MARKER), "{told}");
    }
    let spans = collector.spans();
    assert!(spans.len() > 40, "{}", spans.len());
    assert!(!format!("{spans:?}").contains(MARKER), "{spans:#?}");
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_lines_tells_calls_and_no_texts() {
    let log = log_of_markers("human").await;
    let told = log.iter().rfind(|told| told.contains("rpc ended")).unwrap();
    for part in [
        r#"request_id="req-7""#,
        r#"rpc.method="MeteringService/BatchRecordUsage""#,
        r#"code="OK""#,
        "elapsed_us=",
        "recorded=1",
        &format!("total_tokens={EVENT_TOKENS}"),
        &format!("cost_nano_usd={EVENT_NANO_USD}"),
    ] {
        assert!(told.contains(part), "no {part}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_json_tells_calls_and_no_texts() {
    let log = log_of_markers("json").await;
    let parsed = log.iter().map(|told| serde_json::from_str::<Json>(told));
    let log = parsed.collect::<Result<Vec<_>, _>>().unwrap();
    let told = log.iter().rfind(|told| told["message"] == "rpc ended");
    let told = told.unwrap();
    assert_eq!(told["code"], "OK");
    assert!(told["elapsed_us"].as_i64().unwrap() > 0);
    let call = &told["span"];
    assert_eq!(call["request_id"], "req-7");
    assert_eq!(call["rpc.method"], "MeteringService/BatchRecordUsage");
    assert_eq!(call["recorded"], 1);
    assert_eq!(call["total_tokens"], EVENT_TOKENS);
    assert_eq!(call["cost_nano_usd"], EVENT_NANO_USD);
}
