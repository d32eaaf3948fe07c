//! Recorded provider responses become events.

use tokenmeter_api::v1;

use super::plan::{Defaults, Planned, Used};
use crate::cli::rows::{ROW_INVALID, Refusal, Row, is_id};
use crate::cli::time;

/// The event of a row, or why it has none.
pub(super) fn plan(text: &str, line: u64, defaults: &Defaults) -> Result<Option<Planned>, Refusal> {
    let row = Row::parse(text)?;
    let normalized = row.normalize();
    let given = row.id().or(normalized
        .as_ref()
        .ok()
        .and_then(|normalized| normalized.response_id.as_deref())
        .filter(|id| is_id(id)));
    let event_id = given.map_or_else(|| defaults.id_of(line), str::to_owned);
    let event = event(&row, event_id, defaults)?;
    let used = normalized
        .ok()
        .map(|normalized| Used::of_document(&event, &normalized));
    Planned::new(event, used).map(Some)
}

fn event(row: &Row<'_>, event_id: String, defaults: &Defaults) -> Result<v1::UsageEvent, Refusal> {
    let request_time = match &row.time {
        Some(text) => Some(
            time::parse(text)
                .map_err(|_| Refusal::new(ROW_INVALID, "the row's time is not RFC 3339"))?,
        ),
        None => None,
    };
    let documents = row.documents()?;
    let mut usage = v1::ProviderUsage {
        api: row.api().to_owned(),
        model: row.model(),
        ..Default::default()
    };
    let none = documents.texts.is_empty();
    let mut texts = documents.texts.into_iter().map(str::to_owned);
    if documents.streamed {
        usage.stream_usage_json = texts.collect();
    } else {
        usage.usage_json = texts.next().unwrap_or_default();
    }
    let mut event = v1::UsageEvent {
        event_id,
        user_id: row.user.clone().unwrap_or_default(),
        team_id: row.team.clone().unwrap_or_default(),
        session_id: row.session.clone().unwrap_or_default(),
        provider: row.provider.clone(),
        request_time,
        usage: (!none).then_some(v1::usage_event::Usage::ProviderUsage(usage)),
        ..Default::default()
    };
    defaults.fill(&mut event);
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::import::plan::MAX_BYTES;
    use prost_types::Timestamp;

    fn defaults() -> Defaults {
        Defaults {
            user: "u".into(),
            labels: vec![v1::Label {
                key: "k".into(),
                value: "v".into(),
            }],
            file_hash: "0123456789abcdef0123456789abcdef4567".into(),
            ..Default::default()
        }
    }

    fn planned(row: &str, defaults: &Defaults) -> Result<Planned, Refusal> {
        plan(row, 41, defaults).map(Option::unwrap)
    }

    fn usage(event: v1::UsageEvent) -> v1::ProviderUsage {
        match event.usage.unwrap() {
            v1::usage_event::Usage::ProviderUsage(usage) => usage,
            v1::usage_event::Usage::Lines(_) => panic!("lines"),
        }
    }

    const OPENAI: &str = r#"{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15}"#;

    #[test]
    fn a_plain_row_becomes_an_event() {
        let row = format!(
            r#"{{"provider":"openai","api":"/v1/chat/completions","streaming":false,"request_model":"a%3A0","response_id":"chatcmpl-1","usage":{OPENAI},"source":"x"}}"#
        );
        let Planned { event, used, .. } = planned(&row, &defaults()).unwrap();
        assert_eq!(event.event_id, "chatcmpl-1");
        assert_eq!(event.user_id, "u");
        assert_eq!(event.provider, "openai");
        assert_eq!(event.labels.len(), 1);
        assert_eq!(event.request_time, None);
        let usage = usage(event);
        assert_eq!(usage.model, "a:0");
        assert_eq!(usage.api, "/v1/chat/completions");
        assert_eq!(usage.usage_json, OPENAI);
        assert!(usage.stream_usage_json.is_empty());
        let used = used.unwrap();
        assert_eq!((used.lines, used.counts.total()), (1, 15));
    }

    #[test]
    fn a_row_s_own_user_team_session_time_and_id_win() {
        let row = format!(
            r#"{{"provider":"openai","request_model":"m","response_id":"r","user":"own","team":"t","session":"s","time":"1970-01-01T00:00:01Z","event_id":"e","usage":[{OPENAI}]}}"#
        );
        let mut defaults = defaults();
        defaults.time = Some(Timestamp::default());
        let event = planned(&row, &defaults).unwrap().event;
        assert_eq!(event.event_id, "e");
        assert_eq!(event.user_id, "own");
        assert_eq!(
            (event.team_id.as_str(), event.session_id.as_str()),
            ("t", "s")
        );
        assert_eq!(event.request_time.map(|time| time.seconds), Some(1));
        assert_eq!(usage(event).stream_usage_json, [OPENAI]);
        let row = format!(r#"{{"provider":"openai","usage":{OPENAI}}}"#);
        let event = planned(&row, &defaults).unwrap().event;
        assert_eq!(event.request_time, defaults.time);
    }

    #[test]
    fn a_row_without_an_id_is_named_by_file_and_line() {
        let row = format!(r#"{{"provider":"openai","request_model":"m","usage":{OPENAI}}}"#);
        let event = planned(&row, &defaults()).unwrap().event;
        assert_eq!(event.event_id, "file:0123456789abcdef0123456789abcdef:41");
        let row = r#"{"provider":"openai","request_model":"m","usage":{"id":"chatcmpl-9","usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}}"#;
        assert_eq!(
            planned(row, &defaults()).unwrap().event.event_id,
            "chatcmpl-9"
        );
    }

    #[test]
    fn what_the_server_will_refuse_is_sent_all_the_same() {
        let row = planned(r#"{"provider":"nobody","usage":{}}"#, &defaults()).unwrap();
        assert_eq!(row.used, None);
        let row = planned(r#"{"provider":"openai"}"#, &defaults()).unwrap();
        assert_eq!(row.event.usage, None);
        let row = planned(r#"{"provider":"openai","usage":[]}"#, &defaults()).unwrap();
        assert_eq!(row.event.usage, None);
    }

    #[test]
    fn what_is_no_row_or_too_large_is_refused_here() {
        let reason = |row: &str| planned(row, &defaults()).unwrap_err().reason;
        assert_eq!(reason("{"), ROW_INVALID);
        assert_eq!(
            reason(r#"{"provider":"openai","time":"now","usage":{}}"#),
            ROW_INVALID
        );
        let big = "x".repeat(MAX_BYTES);
        assert_eq!(
            reason(&format!(
                r#"{{"provider":"openai","usage":{{"a":"{big}"}}}}"#
            )),
            "USAGE_TOO_LARGE"
        );
    }
}
