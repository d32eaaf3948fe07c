//! The columns of `usage_lines` and what an event writes to each, whatever the backend.

use tokenmeter_model::counts::{CacheWrites, TokenCounts};
use tokenmeter_model::event::Event;

use crate::ledger::Submission;

/// The values of one row, in the order of its columns.
pub(crate) trait Values {
    /// The next column, a number.
    fn number(&mut self, value: Option<i64>) -> &mut Self;
    /// The next column, a flag.
    fn flag(&mut self, value: Option<bool>) -> &mut Self;
    /// The next column, a text.
    fn text(&mut self, value: &str) -> &mut Self;
    /// The next column, JSON or nothing.
    fn json(&mut self, value: Option<String>) -> &mut Self;
}

/// Columns of `usage_lines` in the order that [`bind`] writes them.
pub(crate) const COLUMNS: &[&str] = &[
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
    "api_key_id",
];

/// One row to write: line `index` of a submission.
pub(crate) struct NewLine<'a> {
    pub(crate) position: i64,
    pub(crate) index: usize,
    pub(crate) submission: &'a Submission,
}

/// Writes one line in the order of [`COLUMNS`].
pub(crate) fn bind(new: &NewLine<'_>, row: &mut impl Values) {
    let Submission {
        tenant,
        event,
        quotes,
        charge_time_us,
        recorded_at_us,
        api_key_id,
        fingerprint: _,
    } = new.submission;
    let line = &event.lines[new.index];
    let quote = quotes.get(new.index).copied().flatten();
    let first = new.index == 0;
    row.number(Some(new.position))
        .text(tenant.as_str())
        .text(&event.event_id)
        .number(Some(small(new.index)))
        .number(Some(small(event.lines.len())))
        .text("usage")
        .text(&event.user_id)
        .text(&event.team_id)
        .text(&event.session_id)
        .number(event.turn)
        .text(&event.provider)
        .text(&line.model)
        .number(event.request_time_us)
        .number(Some(*charge_time_us))
        .number(Some(*recorded_at_us))
        .number(Some(i64::from(first)))
        .number(Some(i64::from(quote.is_none())));
    bind_counts(&line.counts, row);
    row.json(json_unless(
        &line.tool_requests,
        line.tool_requests.is_empty(),
    ))
    .number(Some(quote.map_or(0, |quote| quote.cost_nano_usd)))
    .number(Some(quote.map_or(0, |quote| quote.cache_saving_nano_usd)))
    .number(Some(
        quote.map_or(0, |quote| quote.cache_write_extra_nano_usd),
    ))
    .number(quote.map(|quote| quote.price_version))
    .text(event.status.as_str());
    bind_facts(event, row);
    row.text(api_key_id);
}

fn bind_counts(counts: &TokenCounts, row: &mut impl Values) {
    let CacheWrites {
        ttl_5m,
        ttl_30m,
        ttl_1h,
        ttl_12h,
        unspecified,
    } = counts.cache_write;
    for count in [
        counts.input,
        counts.cache_read,
        ttl_5m,
        ttl_30m,
        ttl_1h,
        ttl_12h,
        unspecified,
        counts.output,
        counts.reasoning,
        counts.input_audio,
        counts.input_image,
        counts.tool_use_prompt,
        counts.cache_read_audio,
        counts.output_audio,
        counts.output_image,
    ] {
        row.number(Some(count));
    }
}

fn bind_facts(event: &Event, row: &mut impl Values) {
    row.number(event.latency_ms)
        .number(event.time_to_first_token_ms)
        .text(&event.service_tier)
        .text(&event.inference_region)
        .text(&event.stop_reason)
        .flag(event.thinking.map(|thinking| thinking.enabled))
        .number(event.thinking.and_then(|thinking| thinking.budget_tokens))
        .json(
            event
                .message
                .as_ref()
                .and_then(|message| serde_json::to_string(message).ok()),
        )
        .flag(event.retrieval.map(|retrieval| retrieval.retrieval_ran))
        .number(event.retrieval.map(|retrieval| retrieval.cases_retrieved))
        .flag(event.retrieval.and_then(|retrieval| retrieval.succeeded))
        .json(json_unless(&event.labels, event.labels.is_empty()))
        .text(&event.reservation_id);
}

/// A count of lines, at most 16.
fn small(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn json_unless<T: serde::Serialize>(value: &T, empty: bool) -> Option<String> {
    if empty {
        None
    } else {
        serde_json::to_string(value).ok()
    }
}
