//! One usage event as its caller supplied it, checked, with its token counts already disjoint (R1).

mod fingerprint;
mod recorded;

pub use fingerprint::{FINGERPRINT_BYTES, FINGERPRINT_VERSION, Fingerprint};
pub use recorded::{Recorded, Voided};

use crate::bounds::{self, Kind, Violation};
use crate::counts::Line;

/// How the model call ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Status {
    /// The call returned an answer; what is meant when nothing is said.
    #[default]
    Succeeded,
    /// The provider or the caller failed it.
    Failed,
    /// It was broken off; what it used until then counts.
    Interrupted,
}

impl Status {
    /// The name in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }

    /// Reads the name in the ledger.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Succeeded, Self::Failed, Self::Interrupted]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

/// Extended thinking as asked for (R4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Thinking {
    /// Whether the call asked for it.
    pub enabled: bool,
    /// Its budget in tokens, [`bounds::MIN_THINKING_BUDGET`] to [`bounds::MAX_THINKING_BUDGET`].
    pub budget_tokens: Option<i64>,
}

/// Facts about the message that the call produced (R6); never its text.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct MessageFacts {
    /// The provider's or the caller's message id.
    pub message_id: String,
    /// The role, such as `assistant`.
    pub role: String,
    /// The kind of message, such as `text` or `tool_use`.
    pub message_type: String,
    /// Place in the session, counted by the caller from 0.
    pub sequence: Option<i64>,
    /// The tool use that the message asks for or answers.
    pub tool_use_id: String,
    /// The caller's own id of the event that led to this one.
    pub source_event_id: String,
}

/// Facts about retrieval before the call (R8).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetrievalFacts {
    /// Whether retrieval ran.
    pub retrieval_ran: bool,
    /// How many cases it retrieved.
    pub cases_retrieved: i64,
    /// Whether the answer served its purpose, where the caller knows.
    pub succeeded: Option<bool>,
}

/// One usage event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// The provider's message id where there is one (R2), 1 to 255 bytes.
    pub event_id: String,
    /// Who made the call, 1 to 255 bytes.
    pub user_id: String,
    /// The user's team; empty when there is none.
    pub team_id: String,
    /// The session; empty when there is none.
    pub session_id: String,
    /// The turn within the session.
    pub turn: Option<i64>,
    /// The provider by its OpenTelemetry GenAI name.
    pub provider: String,
    /// When the call was made, in microseconds since the Unix epoch; absent means when recorded.
    pub request_time_us: Option<i64>,
    /// The hold that this usage settles; empty when there is none.
    pub reservation_id: String,
    /// 1 to [`bounds::MAX_LINES`] lines.
    pub lines: Vec<Line>,
    /// How the call ended.
    pub status: Status,
    /// From request to last byte, in milliseconds.
    pub latency_ms: Option<i64>,
    /// From request to first token, in milliseconds.
    pub time_to_first_token_ms: Option<i64>,
    /// Free-form labels sorted by key; at most [`bounds::MAX_LABELS`], keys distinct.
    pub labels: Vec<(String, String)>,
    /// Extended thinking as asked for.
    pub thinking: Option<Thinking>,
    /// The service tier as served, in the provider's own word.
    pub service_tier: String,
    /// Where the model ran, in the provider's own word.
    pub inference_region: String,
    /// Why the model stopped, in the provider's own word.
    pub stop_reason: String,
    /// Facts about the message.
    pub message: Option<MessageFacts>,
    /// Facts about retrieval.
    pub retrieval: Option<RetrievalFacts>,
}

/// A provider's own usage object, as it came (R12).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProviderUsage {
    /// Whose format the documents have; empty means the event's provider.
    pub provider: String,
    /// Which of the provider's APIs answered; empty means to recognise it by its keys.
    pub api: String,
    /// The model where the documents name none.
    pub model: String,
    /// The document, or the usage-bearing chunks of a streamed response in order.
    pub documents: Vec<String>,
    /// Whether the response was streamed.
    pub streamed: bool,
}

/// Usage as the caller sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Usage {
    /// Disjoint counts that the caller made itself.
    Lines(Vec<Line>),
    /// The provider's own documents.
    Provider(ProviderUsage),
}

/// An event as received: its usage is not yet in lines, and what may be left empty may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    /// The event; its lines are still empty.
    pub event: Event,
    /// Its usage; none when the caller sent none.
    pub usage: Option<Usage>,
}

impl Event {
    /// Checks every bound and returns what is out of bounds, in the order of the contract.
    /// `now_us` is the server's clock in microseconds since the Unix epoch.
    pub fn check(&self, now_us: i64) -> Vec<Violation> {
        let mut out = Vec::new();
        if self.event_id.is_empty() {
            out.push(
                Violation::new(
                    "event_id",
                    "is required; send the provider's message id, or a document that carries one",
                )
                .kind(Kind::EventIdMissing),
            );
        }
        bounds::text("event_id", &self.event_id, &mut out);
        bounds::required_text("user_id", &self.user_id, &mut out);
        bounds::required_text("provider", &self.provider, &mut out);
        for (field, value) in [
            ("team_id", &self.team_id),
            ("session_id", &self.session_id),
            ("reservation_id", &self.reservation_id),
            ("service_tier", &self.service_tier),
            ("inference_region", &self.inference_region),
            ("stop_reason", &self.stop_reason),
        ] {
            bounds::text(field, value, &mut out);
        }
        if let Some(time) = self.request_time_us {
            check_time("request_time", time, now_us, &mut out);
        }
        if let (Some(first), Some(whole)) = (self.time_to_first_token_ms, self.latency_ms)
            && first > whole
        {
            out.push(Violation::new(
                "time_to_first_token_ms",
                format!("{first} is more than latency_ms ({whole}), which includes it"),
            ));
        }
        for (field, value, max) in [
            ("turn", self.turn, bounds::MAX_ORDINAL),
            ("latency_ms", self.latency_ms, bounds::MAX_DURATION_MS),
            (
                "time_to_first_token_ms",
                self.time_to_first_token_ms,
                bounds::MAX_DURATION_MS,
            ),
        ] {
            if let Some(value) = value {
                bounds::range(field, value, 0, max, &mut out);
            }
        }
        self.check_lines(&mut out);
        bounds::labels(&self.labels, &mut out);
        self.check_facts(&mut out);
        out
    }

    /// Names of the fields, as in the contract, in which another payload differs.
    pub fn differing_fields(&self, other: &Self) -> Vec<&'static str> {
        [
            ("user_id", self.user_id != other.user_id),
            ("team_id", self.team_id != other.team_id),
            ("session_id", self.session_id != other.session_id),
            ("turn", self.turn != other.turn),
            ("provider", self.provider != other.provider),
            (
                "request_time",
                self.request_time_us != other.request_time_us,
            ),
            (
                "reservation_id",
                self.reservation_id != other.reservation_id,
            ),
            ("lines", self.lines != other.lines),
            ("status", self.status != other.status),
            ("latency_ms", self.latency_ms != other.latency_ms),
            (
                "time_to_first_token_ms",
                self.time_to_first_token_ms != other.time_to_first_token_ms,
            ),
            ("labels", self.labels != other.labels),
            ("thinking", self.thinking != other.thinking),
            ("service_tier", self.service_tier != other.service_tier),
            (
                "inference_region",
                self.inference_region != other.inference_region,
            ),
            ("stop_reason", self.stop_reason != other.stop_reason),
            ("message", self.message != other.message),
            ("retrieval", self.retrieval != other.retrieval),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }

    fn check_lines(&self, out: &mut Vec<Violation>) {
        if self.lines.is_empty() || self.lines.len() > bounds::MAX_LINES {
            let description = format!(
                "{} lines is out of bounds; send 1 to {} lines, one for each model that the \
                     response bills",
                self.lines.len(),
                bounds::MAX_LINES
            );
            out.push(Violation::new("lines.lines", description).kind(Kind::TooManyLines));
            return;
        }
        for (n, line) in self.lines.iter().enumerate() {
            line.check(format_args!("lines.lines[{n}]"), out);
        }
    }

    fn check_facts(&self, out: &mut Vec<Violation>) {
        if let Some(budget) = self.thinking.and_then(|thinking| thinking.budget_tokens) {
            bounds::range(
                "thinking.budget_tokens",
                budget,
                bounds::MIN_THINKING_BUDGET,
                bounds::MAX_THINKING_BUDGET,
                out,
            );
        }
        if let Some(message) = &self.message {
            for (field, value) in [
                ("message.message_id", &message.message_id),
                ("message.role", &message.role),
                ("message.type", &message.message_type),
                ("message.tool_use_id", &message.tool_use_id),
                ("message.source_event_id", &message.source_event_id),
            ] {
                bounds::text(field, value, out);
            }
            if let Some(sequence) = message.sequence {
                bounds::range("message.sequence", sequence, 0, bounds::MAX_ORDINAL, out);
            }
        }
        if let Some(retrieval) = self.retrieval {
            bounds::range(
                "retrieval.cases_retrieved",
                retrieval.cases_retrieved,
                0,
                bounds::MAX_ORDINAL,
                out,
            );
        }
    }
}

/// Checks an event time: not before 2000 and at most 10 minutes ahead of the server's clock.
pub fn check_time(field: &str, time_us: i64, now_us: i64, out: &mut Vec<Violation>) {
    if time_us < bounds::MIN_TIME_US {
        out.push(Violation::new(
            field,
            "lies before 2000-01-01T00:00:00Z; send the time of the call",
        ));
    }
    if time_us > now_us.saturating_add(bounds::MAX_FUTURE_US) {
        let description = format!(
            "lies more than {} minutes ahead of the server's clock; send the time of the call \
                 and check the caller's clock",
            bounds::MAX_FUTURE_US / 60_000_000
        );
        out.push(Violation::new(field, description).kind(Kind::TimeInFuture));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::TokenCounts;

    const NOW: i64 = 1_790_000_000_000_000;

    fn event() -> Event {
        Event {
            event_id: "msg_01".into(),
            user_id: "u".into(),
            provider: "anthropic".into(),
            lines: vec![Line {
                model: "m".into(),
                counts: TokenCounts {
                    input: 3,
                    output: 2,
                    ..Default::default()
                },
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn fields(event: &Event) -> Vec<String> {
        event
            .check(NOW)
            .into_iter()
            .map(|violation| violation.field)
            .collect()
    }

    #[test]
    fn a_plain_event_passes() {
        assert_eq!(fields(&event()), Vec::<String>::new());
    }

    #[test]
    fn thinking_budget_bounds_are_1024_and_100000() {
        for (budget, passes) in [
            (1_023, false),
            (1_024, true),
            (100_000, true),
            (100_001, false),
        ] {
            let thinking = Some(Thinking {
                enabled: true,
                budget_tokens: Some(budget),
            });
            assert_eq!(
                Event {
                    thinking,
                    ..event()
                }
                .check(NOW)
                .is_empty(),
                passes,
                "{budget}"
            );
        }
    }

    #[test]
    fn every_bound_names_its_field() {
        let long = "x".repeat(256);
        let cases: Vec<(Event, &str)> = vec![
            (
                Event {
                    event_id: long.clone(),
                    ..event()
                },
                "event_id",
            ),
            (
                Event {
                    event_id: String::new(),
                    ..event()
                },
                "event_id",
            ),
            (
                Event {
                    user_id: long.clone(),
                    ..event()
                },
                "user_id",
            ),
            (
                Event {
                    session_id: long.clone(),
                    ..event()
                },
                "session_id",
            ),
            (
                Event {
                    request_time_us: Some(NOW + bounds::MAX_FUTURE_US + 1),
                    ..event()
                },
                "request_time",
            ),
            (
                Event {
                    request_time_us: Some(0),
                    ..event()
                },
                "request_time",
            ),
            (
                Event {
                    turn: Some(-1),
                    ..event()
                },
                "turn",
            ),
            (
                Event {
                    lines: vec![event().lines[0].clone(); 17],
                    ..event()
                },
                "lines.lines",
            ),
            (
                Event {
                    lines: vec![],
                    ..event()
                },
                "lines.lines",
            ),
            (
                Event {
                    labels: (0..65)
                        .map(|n| (format!("{n:02}"), String::new()))
                        .collect(),
                    ..event()
                },
                "labels",
            ),
            (
                Event {
                    labels: vec![("k".into(), long)],
                    ..event()
                },
                "labels[k].value",
            ),
            (
                Event {
                    labels: vec![("k".into(), "1".into()), ("k".into(), "2".into())],
                    ..event()
                },
                "labels",
            ),
        ];
        for (bad, field) in cases {
            assert_eq!(fields(&bad), [field]);
        }
        let edge = Event {
            event_id: "x".repeat(255),
            request_time_us: Some(NOW + bounds::MAX_FUTURE_US),
            lines: vec![event().lines[0].clone(); 16],
            labels: (0..64)
                .map(|n| (format!("{n:02}"), String::new()))
                .collect(),
            ..event()
        };
        assert_eq!(fields(&edge), Vec::<String>::new());
    }
}
