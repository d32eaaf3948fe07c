//! Logs to standard error, and traces over OTLP where an endpoint is configured.

use std::io::IsTerminal as _;

use http::HeaderMap;
use opentelemetry::global;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::{Config, LogFormat};

/// What has to be flushed when the process ends.
pub(crate) struct Telemetry(Option<SdkTracerProvider>);

/// Starts logging and tracing.
///
/// # Errors
/// When the exporter cannot be built.
pub(crate) fn start(config: &Config) -> Result<Telemetry, String> {
    let filter: EnvFilter = config
        .log
        .parse()
        .map_err(|error| format!("log: {}: {error}", config.log))?;
    // Colours are for terminals; a file of logs is for grep.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match config.log_format {
        LogFormat::Human => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let traces = config.otlp_endpoint.as_deref().map(exporter).transpose()?;
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("tokenmeter"))
            .with_filter(EnvFilter::new("tokenmeter=debug,tokenmeter_metering=debug"))
    });
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(spans)
        .try_init()
        .map_err(|error| format!("log: {error}"))?;
    Ok(Telemetry(traces))
}

fn exporter(endpoint: &str) -> Result<SdkTracerProvider, String> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| format!("otlp_endpoint: {error}"))?;
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name("tokenmeter").build())
        .with_batch_exporter(exporter)
        .build();
    global::set_tracer_provider(provider.clone());
    Ok(provider)
}

impl Telemetry {
    /// Sends what waits.
    pub(crate) fn stop(self) {
        if let Some(Err(error)) = self.0.map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Makes a span part of the caller's trace, if the call carries one.
pub(crate) fn continue_trace(span: &tracing::Span, headers: &HeaderMap) {
    if headers.contains_key("traceparent") {
        // Without an exporter there is no trace to be part of.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&Headers(headers)));
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
