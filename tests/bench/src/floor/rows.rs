//! What the events are as rows and sums, whichever database is the floor.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::data::Event;

/// Length of a bucket of totals in microseconds.
const BUCKET_US: i64 = 15 * 60 * 1_000_000;
/// The bucket of lifetime totals.
const LIFETIME: i64 = 0;

pub(super) type Key = (Arc<str>, &'static str, Arc<str>, i64);

/// The figures of an event, in the order of [`SUMS`].
fn figures(event: &Event) -> [i64; SUMS.len()] {
    let mut sums = [0; SUMS.len()];
    let cost = event.input + event.output * 5;
    for (name, figure) in [
        ("requests", 1),
        ("succeeded", 1),
        ("input", event.input),
        ("cache_read", event.cache_read),
        ("cache_write_5m", event.cache_write_5m),
        ("output", event.output),
        ("reasoning", event.reasoning),
        ("cost_nano_usd", cost * 3_000),
        ("cache_saving_nano_usd", event.cache_read * 2_700),
        ("cache_write_extra_nano_usd", event.cache_write_5m * 750),
        ("lines", 1),
        ("latency_ms", event.latency_ms),
        ("latency_events", 1),
    ] {
        let at = SUMS.iter().position(|sum| *sum == name).expect("a sum");
        sums[at] = figure;
    }
    sums
}

/// The totals that the ledger keeps: of users, teams and models their lifetimes and
/// quarter-hours, of sessions their lifetimes.
pub(super) fn add(sums: &mut BTreeMap<Key, [i64; SUMS.len()]>, tenant: &Arc<str>, event: &Event) {
    let figures = figures(event);
    let now = event.time_us / BUCKET_US;
    let model: Arc<str> = format!("{}/{}", event.model.provider, event.model.name).into();
    let mut one = |scope, subject: &Arc<str>, bucket| {
        let key = (Arc::clone(tenant), scope, Arc::clone(subject), bucket);
        for (sum, figure) in sums
            .entry(key)
            .or_insert([0; SUMS.len()])
            .iter_mut()
            .zip(figures)
        {
            *sum += figure;
        }
    };
    for bucket in [LIFETIME, now] {
        one("user", &event.user, bucket);
        one("model", &model, bucket);
        if !event.team.is_empty() {
            one("team", &event.team, bucket);
        }
    }
    one("session", &event.session, LIFETIME);
}

/// The sums of a total.
pub(super) const SUMS: [&str; 27] = [
    "requests",
    "succeeded",
    "failed",
    "interrupted",
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_30m",
    "cache_write_1h",
    "cache_write_12h",
    "cache_write_unspecified",
    "output",
    "reasoning",
    "input_audio",
    "input_image",
    "tool_use_prompt",
    "cache_read_audio",
    "output_audio",
    "output_image",
    "tool_requests",
    "cost_nano_usd",
    "cache_saving_nano_usd",
    "cache_write_extra_nano_usd",
    "lines",
    "unpriced_lines",
    "latency_ms",
    "latency_events",
];

/// The columns of `events` that [`bind_event`] writes, in its order.
pub(super) const COLUMNS: [&str; 51] = [
    "position",
    "tenant_id",
    "event_id",
    "line",
    "line_count",
    "kind",
    "user_id",
    "team_id",
    "session_id",
    "turn",
    "provider",
    "model",
    "request_time",
    "charge_time",
    "recorded_at",
    "requests",
    "unpriced_lines",
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_30m",
    "cache_write_1h",
    "cache_write_12h",
    "cache_write_unspecified",
    "output",
    "reasoning",
    "input_audio",
    "input_image",
    "tool_use_prompt",
    "cache_read_audio",
    "output_audio",
    "output_image",
    "tool_requests",
    "cost_nano_usd",
    "cache_saving_nano_usd",
    "cache_write_extra_nano_usd",
    "price_version",
    "status",
    "latency_ms",
    "time_to_first_token_ms",
    "service_tier",
    "inference_region",
    "stop_reason",
    "thinking_enabled",
    "thinking_budget_tokens",
    "message",
    "retrieval_ran",
    "cases_retrieved",
    "succeeded",
    "labels",
    "reservation_id",
];
