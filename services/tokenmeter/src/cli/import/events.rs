//! Usage events as proto JSON become events: `UsageEvent`, as callers write it, and
//! `RecordedEvent`, as `export` writes it, of which what the ledger added is left away.

use serde::Deserialize;
use serde::de::IgnoredAny;
use tokenmeter_api::json::{self, UnknownKeys};
use tokenmeter_api::v1;
use tokenmeter_api::v1::usage_event::Usage;
use tokenmeter_model::provider::{self, Normalized, Provider, Response};

use super::plan::{Defaults, Planned, Used};
use crate::cli::rows::{ROW_INVALID, Refusal, is_id};

/// The keys that only a recorded event has.
#[derive(Debug, Deserialize)]
struct Recorded {
    #[serde(alias = "recordedTime")]
    recorded_time: Option<IgnoredAny>,
    position: Option<IgnoredAny>,
}

/// The event of a row, or why it has none; nothing for an event that was voided.
pub(super) fn plan(text: &str, line: u64, defaults: &Defaults) -> Result<Option<Planned>, Refusal> {
    let Some(mut event) = read(text)? else {
        return Ok(None);
    };
    defaults.fill(&mut event);
    let document = match &event.usage {
        Some(Usage::ProviderUsage(usage)) => normalize(&event.provider, usage),
        _ => None,
    };
    if !is_id(&event.event_id) {
        let id = document
            .as_ref()
            .and_then(|document| document.response_id.clone())
            .filter(|id| is_id(id));
        event.event_id = id.unwrap_or_else(|| defaults.id_of(line));
    }
    let used = match (&event.usage, document) {
        (Some(Usage::Lines(lines)), _) => Used::of_lines(&event, &lines.lines),
        (_, Some(document)) => Some(Used::of_document(&event, &document)),
        _ => None,
    };
    Planned::new(event, used).map(Some)
}

fn read(text: &str) -> Result<Option<v1::UsageEvent>, Refusal> {
    let refused = |error| Refusal::new(ROW_INVALID, format!("the row {error}"));
    // What is no object at all is refused below, with the place.
    let recorded = text.trim_start().starts_with('{')
        && serde_json::from_str::<Recorded>(text)
            .is_ok_and(|keys| keys.recorded_time.is_some() || keys.position.is_some());
    if !recorded {
        let event = json::decode(text, UnknownKeys::Refused).map_err(refused)?;
        return Ok(Some(event));
    }
    let event: v1::RecordedEvent = json::decode(text, UnknownKeys::Refused).map_err(refused)?;
    Ok((!event.voided).then(|| as_sent(event)))
}

/// The event that would be recorded so. What the ledger added is not part of it; neither is the
/// reservation, which was settled where the event was recorded first.
fn as_sent(event: v1::RecordedEvent) -> v1::UsageEvent {
    let lines = event.lines.into_iter().map(|line| v1::UsageLine {
        model: line.model,
        counts: line.counts,
        tool_requests: line.tool_requests,
    });
    v1::UsageEvent {
        event_id: event.event_id,
        user_id: event.user_id,
        team_id: event.team_id,
        session_id: event.session_id,
        turn: event.turn,
        provider: event.provider,
        request_time: event.request_time,
        reservation_id: None,
        usage: Some(Usage::Lines(v1::UsageLines {
            lines: lines.collect(),
        })),
        status: event.status,
        latency_ms: event.latency_ms,
        time_to_first_token_ms: event.time_to_first_token_ms,
        labels: event.labels,
        thinking: event.thinking,
        service_tier: event.service_tier,
        inference_region: event.inference_region,
        stop_reason: event.stop_reason,
        message: event.message,
        retrieval: event.retrieval,
    }
}

/// The provider's document in disjoint counts; none where the server will refuse it.
fn normalize(provider: &str, usage: &v1::ProviderUsage) -> Option<Normalized> {
    let provider = match usage.provider.as_str() {
        "" => provider,
        own => own,
    };
    let documents: Vec<&str> = match usage.usage_json.as_str() {
        "" => usage.stream_usage_json.iter().map(String::as_str).collect(),
        one => vec![one],
    };
    provider::normalize(&Response {
        provider: Provider::parse(provider)?,
        api: &usage.api,
        model: &usage.model,
        documents: &documents,
        streamed: usage.usage_json.is_empty(),
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Result<Option<Planned>, Refusal> {
        let defaults = Defaults {
            user: "u".into(),
            file_hash: "0".repeat(64),
            labels: vec![v1::Label {
                key: "k".into(),
                value: "default".into(),
            }],
            ..Default::default()
        };
        plan(text, 7, &defaults)
    }

    #[test]
    fn an_event_is_taken_as_it_is_and_filled_in() {
        let text = r#"{"eventId":"e","provider":"openai","labels":[{"key":"k","value":"own"}],"lines":{"lines":[{"model":"m","counts":{"input":"12","output":3}},{"model":"n","counts":{"cache_write":{"ttl_1h":5}}}]}}"#;
        let planned = row(text).unwrap().unwrap();
        assert_eq!(planned.event.user_id, "u");
        assert_eq!(planned.event.labels.len(), 1);
        assert_eq!(planned.event.labels[0].value, "own");
        let used = planned.used.unwrap();
        assert_eq!((used.lines, used.counts.total()), (2, 20));
        assert!(used.undated);
    }

    #[test]
    fn ids_come_from_the_event_its_document_or_the_file() {
        let id = |text: &str| row(text).unwrap().unwrap().event.event_id;
        let lines = r#""provider":"p","lines":{"lines":[{"model":"m"}]}"#;
        assert_eq!(id(&format!(r#"{{"eventId":"e",{lines}}}"#)), "e");
        let document = r#"{"provider":"openai","providerUsage":{"usageJson":"{\"id\":\"chatcmpl-9\",\"model\":\"m\",\"created\":1785542400,\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1,\"total_tokens\":2}}"}}"#;
        assert_eq!(id(document), "chatcmpl-9");
        let used = row(document).unwrap().unwrap().used.unwrap();
        assert_eq!((used.counts.total(), used.undated), (2, false));
        let from_file = format!("file:{}:7", "0".repeat(32));
        assert_eq!(id(&format!("{{{lines}}}")), from_file);
    }

    #[test]
    fn what_was_exported_is_what_was_sent() {
        let recorded = v1::RecordedEvent {
            event_id: "e".into(),
            user_id: "ada".into(),
            provider: "openai".into(),
            turn: Some(3),
            request_time: Some(prost_types::Timestamp::default()),
            recorded_time: Some(prost_types::Timestamp::default()),
            position: "9".into(),
            reservation_id: "r".into(),
            status: v1::EventStatus::Succeeded.into(),
            total_tokens: 5,
            lines: vec![v1::RecordedLine {
                model: "m".into(),
                counts: Some(v1::TokenCounts {
                    input: 5,
                    ..Default::default()
                }),
                price_version: Some(1),
                ..Default::default()
            }],
            ..Default::default()
        };
        let planned = row(&json::encode(&recorded)).unwrap().unwrap();
        assert_eq!(planned.event.turn, Some(3));
        assert_eq!(planned.event.reservation_id, None);
        let used = planned.used.unwrap();
        assert_eq!((used.counts.input, used.undated), (5, false));
        let voided = v1::RecordedEvent {
            voided: true,
            ..recorded
        };
        assert_eq!(row(&json::encode(&voided)), Ok(None));
    }

    #[test]
    fn what_is_no_event_is_refused_by_name() {
        let refusal = |text: &str| row(text).unwrap_err();
        let message = refusal(r#"{"eventId":"e","cost":1}"#).message;
        assert!(
            message.starts_with(r#"the row has the key "cost""#),
            "{message}"
        );
        for text in [
            "secret",
            "[]",
            r#"{"turn":"secret"}"#,
            r#"{"position":"p","x":1}"#,
        ] {
            let refusal = refusal(text);
            assert_eq!(refusal.reason, ROW_INVALID);
            assert!(!refusal.message.contains("secret"), "{}", refusal.message);
        }
        // What the server will refuse is sent all the same.
        let empty = row("{}").unwrap().unwrap();
        assert_eq!(empty.used, None);
        let wrong = r#"{"lines":{"lines":[{"model":"m","counts":{"input":-1}}]}}"#;
        assert_eq!(row(wrong).unwrap().unwrap().used, None);
    }
}
