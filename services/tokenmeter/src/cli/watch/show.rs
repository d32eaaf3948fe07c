//! One line an event.

use serde::Serialize;
use serde_json::value::RawValue;
use tokenmeter_api::v1;
use tokenmeter_api::v1::stream_token_events_response::Event;
use tokenmeter_model::counts::TokenCounts;
use tokenmeter_model::money::format_nano_usd;

use crate::cli::error::Error;
use crate::cli::render::{self, Colour, cost, count, name, nano_usd, usd_of};
use crate::cli::{Output, json, time};

/// Prints a response. True if it was an event; heartbeats and the like are none.
pub(super) fn print(
    response: &v1::StreamTokenEventsResponse,
    output: Output,
    colours: bool,
) -> Result<bool, Error> {
    match &response.event {
        None | Some(Event::Heartbeat(_)) => return Ok(false),
        Some(Event::Reconnect(_)) => {
            render::note("the server asks to connect again");
            return Ok(false);
        }
        Some(Event::ProgressGap(gap)) => {
            let dropped = gap.dropped.map_or_else(|| "some".to_owned(), count);
            render::note(&format!(
                "{dropped} live events were dropped before they were read"
            ));
            return Ok(false);
        }
        Some(event) if output == Output::Table => {
            let (colour, word, rest) = line(event);
            render::coloured(colour.filter(|_| colours), word, &rest)?;
        }
        Some(event) => render::json(&EventJson::new(event, &response.resume_token))?,
    }
    Ok(true)
}

/// What people see of an event: a word, its colour, and the rest of the line.
fn line(event: &Event) -> (Option<Colour>, &'static str, String) {
    match event {
        Event::UsageRecorded(event) => (
            Some(Colour::Green),
            "recorded",
            usage(event, event.recorded_time.as_ref()),
        ),
        Event::UsageVoided(voided) => {
            let event = voided.event.clone().unwrap_or_default();
            let rest = usage(&event, event.voided_time.as_ref());
            let rest = format!("{rest}  ({})", event.void_reason);
            (Some(Colour::Red), "voided  ", rest)
        }
        Event::UsageRepriced(repriced) => {
            let event = repriced.event.clone().unwrap_or_default();
            let change = nano_usd(repriced.cost_change.as_ref()).unwrap_or_default();
            let rest = usage(&event, event.recorded_time.as_ref());
            let rest = format!("{rest}  (change {})", usd_of(change));
            (Some(Colour::Yellow), "repriced", rest)
        }
        Event::TokenCount(tokens) => {
            let phase = name("TOKEN_PHASE_", tokens.phase().as_str_name());
            let call = tokens.call.unwrap_or_default();
            let parts = [
                time::text(tokens.time.as_ref()),
                dash(&tokens.user_id),
                dash(&tokens.session_id),
                dash(&tokens.model),
                format!("{phase}: {} tokens so far", count(call.total)),
            ];
            (Some(Colour::Cyan), "tokens  ", parts.join("  "))
        }
        Event::Lifecycle(step) => {
            let kind = name("LIFECYCLE_KIND_", step.kind().as_str_name());
            let parts = [
                time::text(step.time.as_ref()),
                dash(&step.user_id),
                dash(&step.session_id),
                kind.replace('_', " "),
            ];
            (Some(Colour::Cyan), "step    ", parts.join("  "))
        }
        Event::LimitAlert(alert) => {
            let what = if alert.recovered {
                "below again"
            } else {
                "crossed"
            };
            let rest = format!(
                "{}  {} % of a limit {what}",
                time::text(alert.time.as_ref()),
                alert.threshold_percent
            );
            (Some(Colour::Red), "limit   ", rest)
        }
        Event::Heartbeat(_) | Event::ProgressGap(_) | Event::Reconnect(_) => {
            (None, "", String::new())
        }
    }
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

/// A usage event without its type.
fn usage(event: &v1::RecordedEvent, at: Option<&prost_types::Timestamp>) -> String {
    let counts: TokenCounts = event.counts.map(Into::into).unwrap_or_default();
    let models: Vec<_> = event.lines.iter().map(|line| line.model.as_str()).collect();
    let lines = i64::try_from(event.lines.len()).unwrap_or(i64::MAX);
    let tokens = format!(
        "{} tokens ({} in, {} read, {} written, {} out)",
        count(counts.total()),
        count(counts.input),
        count(counts.cache_read),
        count(counts.cache_write.total()),
        count(counts.output)
    );
    let parts = [
        time::text(at),
        dash(&event.user_id),
        dash(&event.session_id),
        models.join(", "),
        tokens,
        cost(event.cost.as_ref(), lines, event.unpriced_lines.into()),
        event.event_id.clone(),
    ];
    parts.join("  ")
}

/// What programs see of an event.
#[derive(Debug, Serialize)]
struct EventJson<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    resume_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<json::Event<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reprice: Option<Reprice<'a>>,
    /// Events that are no recorded usage, as proto JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<Box<RawValue>>,
}

#[derive(Debug, Serialize)]
struct Reprice<'a> {
    reprice_id: &'a str,
    previous_cost_nano_usd: Option<i64>,
    cost_change_nano_usd: i64,
    cost_change_usd: String,
}

impl<'a> EventJson<'a> {
    fn new(event: &'a Event, resume_token: &'a str) -> Self {
        let mut json = Self {
            kind: "",
            resume_token,
            event: None,
            reprice: None,
            live: None,
        };
        match event {
            Event::UsageRecorded(event) => {
                json.kind = "usage_recorded";
                json.event = Some(event.into());
            }
            Event::UsageVoided(voided) => {
                json.kind = "usage_voided";
                json.event = voided.event.as_ref().map(Into::into);
            }
            Event::UsageRepriced(repriced) => {
                json.kind = "usage_repriced";
                json.event = repriced.event.as_ref().map(Into::into);
                let change = nano_usd(repriced.cost_change.as_ref()).unwrap_or_default();
                json.reprice = Some(Reprice {
                    reprice_id: &repriced.reprice_id,
                    previous_cost_nano_usd: nano_usd(repriced.previous_cost.as_ref()),
                    cost_change_nano_usd: change,
                    cost_change_usd: format_nano_usd(change),
                });
            }
            Event::TokenCount(tokens) => json.live("token_count", tokens),
            Event::Lifecycle(step) => json.live("lifecycle", step),
            Event::LimitAlert(alert) => json.live("limit_alert", alert),
            Event::Heartbeat(_) | Event::ProgressGap(_) | Event::Reconnect(_) => {}
        }
        json
    }

    fn live<M: prost::Message + prost::Name>(&mut self, kind: &'static str, message: &M) {
        self.kind = kind;
        self.live = RawValue::from_string(tokenmeter_api::json::encode(message)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmeter_api::convert::money::from_nano_usd;

    fn event() -> v1::RecordedEvent {
        v1::RecordedEvent {
            event_id: "e\u{1b}[2J".into(),
            user_id: "ada".into(),
            counts: Some(v1::TokenCounts {
                input: 1_200,
                output: 5,
                ..Default::default()
            }),
            lines: vec![v1::RecordedLine {
                model: "m".into(),
                ..Default::default()
            }],
            unpriced_lines: 1,
            void_reason: "twice".into(),
            ..Default::default()
        }
    }

    #[test]
    fn each_kind_is_one_line_with_what_matters() {
        let (colour, word, rest) = line(&Event::UsageRecorded(event()));
        assert_eq!((colour, word), (Some(Colour::Green), "recorded"));
        for part in ["ada  -  m", "1,205 tokens (1,200 in", "unpriced"] {
            assert!(rest.contains(part), "{part}: {rest}");
        }
        let voided = v1::UsageVoided {
            event: Some(event()),
        };
        assert!(line(&Event::UsageVoided(voided)).2.ends_with("(twice)"));
        let repriced = v1::UsageRepriced {
            event: Some(event()),
            cost_change: Some(from_nano_usd(-1_500_000_000)),
            ..Default::default()
        };
        let (_, _, rest) = line(&Event::UsageRepriced(repriced));
        assert!(rest.ends_with("(change -$1.5)"), "{rest}");
    }

    #[test]
    fn programs_get_the_token_with_every_event() {
        let repriced = v1::UsageRepriced {
            event: Some(event()),
            cost_change: Some(from_nano_usd(7)),
            reprice_id: "r".into(),
            ..Default::default()
        };
        let event = Event::UsageRepriced(repriced);
        let json = serde_json::to_value(EventJson::new(&event, "t")).unwrap();
        assert_eq!(json["type"], "usage_repriced");
        assert_eq!(json["resume_token"], "t");
        assert_eq!(json["event"]["user_id"], "ada");
        assert_eq!(json["reprice"]["cost_change_usd"], "0.000000007");
        assert!(json["reprice"]["previous_cost_nano_usd"].is_null());
        assert!(json.get("live").is_none());

        let step = Event::Lifecycle(v1::LifecycleEvent {
            session_id: "s".into(),
            ..Default::default()
        });
        let json = serde_json::to_value(EventJson::new(&step, "t")).unwrap();
        assert_eq!(json["live"]["sessionId"], "s");
    }

    #[test]
    fn heartbeats_are_not_printed() {
        let response = v1::StreamTokenEventsResponse {
            event: Some(Event::Heartbeat(v1::Heartbeat::default())),
            ..Default::default()
        };
        assert!(!print(&response, Output::Json, false).unwrap());
    }
}
