//! The JSON that programs read: the contract's names, counts as numbers, times as RFC 3339, and
//! every amount twice, as whole nano-USD and as exact decimal USD.

use std::collections::BTreeMap;

use serde::Serialize;
use tokenmeter_api::v1;
use tokenmeter_model::counts::TokenCounts;
use tokenmeter_model::money::format_nano_usd;

use super::render::{name, nano_usd};
use super::time;

/// Totals.
#[derive(Debug, Serialize)]
pub(crate) struct Totals {
    prompt_tokens: i64,
    completion_tokens: i64,
    total_tokens: i64,
    uncached_total_tokens: i64,
    counts: TokenCounts,
    cost_nano_usd: i64,
    cost_usd: String,
    cache_saving_nano_usd: i64,
    cache_write_extra_nano_usd: i64,
    requests: i64,
    succeeded_requests: i64,
    failed_requests: i64,
    interrupted_requests: i64,
    lines: i64,
    unpriced_lines: i64,
    tool_requests: i64,
}

impl From<&v1::UsageTotals> for Totals {
    fn from(totals: &v1::UsageTotals) -> Self {
        let cost = nano_usd(totals.cost.as_ref()).unwrap_or_default();
        Self {
            prompt_tokens: totals.prompt_tokens,
            completion_tokens: totals.completion_tokens,
            total_tokens: totals.total_tokens,
            uncached_total_tokens: totals.uncached_total_tokens,
            counts: totals.counts.map(Into::into).unwrap_or_default(),
            cost_nano_usd: cost,
            cost_usd: format_nano_usd(cost),
            cache_saving_nano_usd: nano_usd(totals.cache_saving.as_ref()).unwrap_or_default(),
            cache_write_extra_nano_usd: nano_usd(totals.cache_write_extra.as_ref())
                .unwrap_or_default(),
            requests: totals.requests,
            succeeded_requests: totals.succeeded_requests,
            failed_requests: totals.failed_requests,
            interrupted_requests: totals.interrupted_requests,
            lines: totals.lines,
            unpriced_lines: totals.unpriced_lines,
            tool_requests: totals.tool_requests,
        }
    }
}

/// Totals that an answer may leave out.
pub(crate) fn totals(totals: Option<&v1::UsageTotals>) -> Totals {
    Totals::from(totals.unwrap_or(&v1::UsageTotals::default()))
}

/// One model's totals.
#[derive(Debug, Serialize)]
pub(crate) struct Model<'a> {
    provider: &'a str,
    model: &'a str,
    token_share_ppm: i64,
    totals: Totals,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_time: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_to_first_token: Option<Latency>,
}

impl<'a> From<&'a v1::ModelUsage> for Model<'a> {
    fn from(usage: &'a v1::ModelUsage) -> Self {
        Self {
            provider: &usage.provider,
            model: &usage.model,
            token_share_ppm: usage.token_share_ppm,
            totals: totals(usage.totals.as_ref()),
            response_time: None,
            time_to_first_token: None,
        }
    }
}

impl<'a> Model<'a> {
    /// A model of the whole service.
    pub(crate) fn of_service(model: &'a v1::ServiceModelUsage) -> Option<Self> {
        Some(Self {
            response_time: model.response_time.as_ref().map(Latency::from),
            time_to_first_token: model.time_to_first_token.as_ref().map(Latency::from),
            ..Self::from(model.usage.as_ref()?)
        })
    }
}

/// Figures over a measured time.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    measured: i64,
    mean_ms: Option<i64>,
    p50_ms: Option<i64>,
    p90_ms: Option<i64>,
    p95_ms: Option<i64>,
    p99_ms: Option<i64>,
    max_ms: Option<i64>,
}

impl From<&v1::Latency> for Latency {
    fn from(latency: &v1::Latency) -> Self {
        Self {
            measured: latency.measured,
            mean_ms: latency.mean_ms,
            p50_ms: latency.p50_ms,
            p90_ms: latency.p90_ms,
            p95_ms: latency.p95_ms,
            p99_ms: latency.p99_ms,
            max_ms: latency.max_ms,
        }
    }
}

/// One recorded event.
#[derive(Debug, Serialize)]
pub(crate) struct Event<'a> {
    event_id: &'a str,
    user_id: &'a str,
    team_id: &'a str,
    session_id: &'a str,
    turn: Option<i64>,
    provider: &'a str,
    status: String,
    request_time: Option<String>,
    recorded_time: Option<String>,
    charge_time: Option<String>,
    prompt_tokens: i64,
    total_tokens: i64,
    counts: TokenCounts,
    cost_nano_usd: Option<i64>,
    cost_usd: Option<String>,
    unpriced_lines: i32,
    lines: Vec<Line<'a>>,
    labels: BTreeMap<&'a str, &'a str>,
    latency_ms: Option<i64>,
    time_to_first_token_ms: Option<i64>,
    service_tier: &'a str,
    inference_region: &'a str,
    stop_reason: &'a str,
    normalized_stop_reason: String,
    voided: bool,
    voided_time: Option<String>,
    void_reason: &'a str,
    interim: bool,
    position: &'a str,
}

/// One line of an event.
#[derive(Debug, Serialize)]
struct Line<'a> {
    model: &'a str,
    counts: TokenCounts,
    tool_requests: BTreeMap<&'a str, i64>,
    cost_nano_usd: Option<i64>,
    cost_usd: Option<String>,
    price_version: Option<i64>,
}

impl<'a> From<&'a v1::RecordedLine> for Line<'a> {
    fn from(line: &'a v1::RecordedLine) -> Self {
        let cost = nano_usd(line.cost.as_ref());
        Self {
            model: &line.model,
            counts: line.counts.map(Into::into).unwrap_or_default(),
            tool_requests: line
                .tool_requests
                .iter()
                .map(|tool| (tool.tool.as_str(), tool.requests))
                .collect(),
            cost_nano_usd: cost,
            cost_usd: cost.map(format_nano_usd),
            price_version: line.price_version,
        }
    }
}

impl<'a> From<&'a v1::RecordedEvent> for Event<'a> {
    fn from(event: &'a v1::RecordedEvent) -> Self {
        let cost = nano_usd(event.cost.as_ref());
        Self {
            event_id: &event.event_id,
            user_id: &event.user_id,
            team_id: &event.team_id,
            session_id: &event.session_id,
            turn: event.turn,
            provider: &event.provider,
            status: name("EVENT_STATUS_", event.status().as_str_name()),
            request_time: time::format(event.request_time.as_ref()),
            recorded_time: time::format(event.recorded_time.as_ref()),
            charge_time: time::format(event.charge_time.as_ref()),
            prompt_tokens: event.prompt_tokens,
            total_tokens: event.total_tokens,
            counts: event.counts.map(Into::into).unwrap_or_default(),
            cost_nano_usd: cost,
            cost_usd: cost.map(format_nano_usd),
            unpriced_lines: event.unpriced_lines,
            lines: event.lines.iter().map(Into::into).collect(),
            labels: event
                .labels
                .iter()
                .map(|label| (label.key.as_str(), label.value.as_str()))
                .collect(),
            latency_ms: event.latency_ms,
            time_to_first_token_ms: event.time_to_first_token_ms,
            service_tier: &event.service_tier,
            inference_region: &event.inference_region,
            stop_reason: &event.stop_reason,
            normalized_stop_reason: name(
                "STOP_REASON_",
                event.normalized_stop_reason().as_str_name(),
            ),
            voided: event.voided,
            voided_time: time::format(event.voided_time.as_ref()),
            void_reason: &event.void_reason,
            interim: event.interim,
            position: &event.position,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmeter_api::convert::money::from_nano_usd;

    #[test]
    fn amounts_appear_exactly_and_an_unpriced_line_has_none() {
        let event = v1::RecordedEvent {
            event_id: "e".into(),
            status: v1::EventStatus::Failed.into(),
            cost: Some(from_nano_usd(1_536)),
            lines: vec![v1::RecordedLine {
                model: "m".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let json = serde_json::to_value(Event::from(&event)).unwrap();
        assert_eq!(json["cost_nano_usd"], 1_536);
        assert_eq!(json["cost_usd"], "0.000001536");
        assert_eq!(json["status"], "failed");
        assert!(json["lines"][0]["cost_nano_usd"].is_null());
        assert!(json["request_time"].is_null());
    }

    #[test]
    fn totals_of_nothing_are_zero() {
        let json = serde_json::to_value(totals(None)).unwrap();
        assert_eq!(json["cost_usd"], "0");
        assert_eq!(json["counts"]["cache_write"]["ttl_5m"], 0);
    }
}
