//! Logs to standard error, and traces over OTLP where an endpoint is configured.

use std::io::IsTerminal as _;

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
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
    let filter: EnvFilter = filter(&config.log)
        .parse()
        .map_err(|error| format!("log: {}: {error}", config.log))?;
    // Colours are for terminals; a file of logs is for grep.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match config.log_format {
        LogFormat::Human => lines.boxed(),
        // The innermost span has every field; a list of all would say it twice.
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed(),
    };
    let traces = config.otlp_endpoint.as_deref().map(exporter).transpose()?;
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("tokenmeter"))
            // Source lines and threads are of no use to who reads a trace of a service.
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(EnvFilter::new("tokenmeter=debug"))
    });
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(spans)
        .try_init()
        .map_err(|error| format!("log: {error}"))?;
    Ok(Telemetry(traces))
}

/// The filter of a setting. A level alone is about this service: its libraries say nothing below
/// info, because at debug and trace they may tell what they carry. A filter that names them is
/// taken as it is.
fn filter(setting: &str) -> String {
    match setting.parse::<LevelFilter>() {
        Ok(level) if level > LevelFilter::INFO => format!("info,tokenmeter={level}"),
        _ => setting.to_owned(),
    }
}

fn exporter(endpoint: &str) -> Result<SdkTracerProvider, String> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| format!("otlp_endpoint: {error}"))?;
    let resource = Resource::builder()
        .with_service_name("tokenmeter")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_leaves_the_libraries_at_info() {
        assert_eq!(filter("trace"), "info,tokenmeter=trace");
        assert_eq!(filter("DEBUG"), "info,tokenmeter=debug");
        for as_it_is in [
            "info",
            "warn",
            "error",
            "off",
            "",
            "debug,h2=trace",
            "h2=debug",
        ] {
            assert_eq!(filter(as_it_is), as_it_is);
        }
    }
}
