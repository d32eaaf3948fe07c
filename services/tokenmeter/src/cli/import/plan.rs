//! Rows become events.

use prost::Message as _;
use prost_types::Timestamp;
use tokenmeter_api::v1;
use tokenmeter_model::counts::TokenCounts;

use crate::cli::normalize::sum;
use crate::cli::rows::{Numbered, ROW_INVALID, Refusal, Row, is_id};
use crate::cli::time;

/// Largest event that is sent, in bytes; also the most bytes of a batch.
pub(super) const MAX_BYTES: usize = 3 * 1024 * 1024;
/// Digits of the file's hash in the ids of its rows.
const ID_DIGITS: usize = 32;

/// What rows have that do not say themselves.
#[derive(Debug, Clone, Default)]
pub(super) struct Defaults {
    pub(super) user: String,
    pub(super) team: String,
    pub(super) session: String,
    pub(super) labels: Vec<v1::Label>,
    pub(super) time: Option<Timestamp>,
    /// The file's SHA-256 in hexadecimal digits.
    pub(super) file_hash: String,
}

/// A row that can be sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    /// What is sent.
    pub(super) event: v1::UsageEvent,
    /// Its size in bytes.
    pub(super) bytes: usize,
    /// What the file itself says was used; none if it cannot be read, so that the server, whose
    /// word counts, will refuse the row.
    pub(super) used: Option<Used>,
}

/// What one event used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// Models billed.
    pub(super) lines: i64,
    /// Counts over all of them.
    pub(super) counts: TokenCounts,
    /// Whether neither the row nor its document says when the call was made.
    pub(super) undated: bool,
}

/// The event of a row, or why it has none.
pub(super) fn plan(numbered: &Numbered, defaults: &Defaults) -> Result<Planned, Refusal> {
    let text = numbered.text.as_deref().map_err(Clone::clone)?;
    let row = Row::parse(text)?;
    let normalized = row.normalize();
    let given = row.id().or(normalized
        .as_ref()
        .ok()
        .and_then(|normalized| normalized.response_id.as_deref())
        .filter(|id| is_id(id)));
    let event_id = given.map_or_else(
        || {
            let digits = defaults.file_hash.get(..ID_DIGITS).unwrap_or_default();
            format!("file:{digits}:{}", numbered.line)
        },
        str::to_owned,
    );
    let event = event(&row, event_id, defaults)?;
    let bytes = event.encoded_len();
    if bytes > MAX_BYTES {
        let message = format!("the usage has {bytes} bytes, more than {MAX_BYTES}");
        return Err(Refusal::new("USAGE_TOO_LARGE", message));
    }
    let used = normalized.ok().map(|normalized| Used {
        undated: event.request_time.is_none() && normalized.created_us.is_none(),
        lines: i64::try_from(normalized.lines.len()).unwrap_or(i64::MAX),
        counts: sum(&normalized.lines),
    });
    Ok(Planned { event, bytes, used })
}

fn event(row: &Row<'_>, event_id: String, defaults: &Defaults) -> Result<v1::UsageEvent, Refusal> {
    let request_time = match &row.time {
        Some(text) => Some(
            time::parse(text)
                .map_err(|_| Refusal::new(ROW_INVALID, "the row's time is not RFC 3339"))?,
        ),
        None => defaults.time,
    };
    let or = |own: &Option<String>, default: &String| own.as_ref().unwrap_or(default).clone();
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
    Ok(v1::UsageEvent {
        event_id,
        user_id: or(&row.user, &defaults.user),
        team_id: or(&row.team, &defaults.team),
        session_id: or(&row.session, &defaults.session),
        provider: row.provider.clone(),
        request_time,
        labels: defaults.labels.clone(),
        usage: (!none).then_some(v1::usage_event::Usage::ProviderUsage(usage)),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let numbered = Numbered {
            line: 41,
            end: 0,
            text: Ok(row.to_owned()),
        };
        plan(&numbered, defaults)
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
