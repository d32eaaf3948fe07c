//! Uses of tools (R7).

use crate::bounds::{self, Violation};
use crate::event::check_time;
use crate::fingerprint::{Canonical, Fingerprint};

/// How a use of a tool went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ToolStatus {
    /// It has begun; its end will be reported under the same id.
    Started,
    /// It ended well; what is meant when nothing is said.
    #[default]
    Succeeded,
    /// It ended with an error.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl ToolStatus {
    /// The name in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads the name in the ledger.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Started,
            Self::Succeeded,
            Self::Failed,
            Self::Cancelled,
        ]
        .into_iter()
        .find(|status| status.as_str() == text)
    }
}

/// One use of a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolInvocation {
    /// Names the use for ever, 1 to 255 bytes.
    pub invocation_id: String,
    /// The tool's name, 1 to 255 bytes.
    pub tool: String,
    /// The model's id of the tool use; empty when there is none.
    pub tool_use_id: String,
    /// The user, 1 to 255 bytes.
    pub user_id: String,
    /// The session; empty when there is none.
    pub session_id: String,
    /// The turn in the session.
    pub turn: Option<i64>,
    /// How it went.
    pub status: ToolStatus,
    /// When it began, in microseconds since the Unix epoch; absent means when recorded.
    pub start_time_us: Option<i64>,
    /// How long it ran, in milliseconds; absent means not measured.
    pub duration_ms: Option<i64>,
    /// The kind of error; never its text.
    pub error_type: String,
    /// What its result is reckoned to add to the session, in tokens, 0 to [`bounds::MAX_TOKENS`].
    pub estimated_tokens: i64,
    /// Free-form labels sorted by key, as on an event.
    pub labels: Vec<(String, String)>,
}

impl ToolInvocation {
    pub(super) fn check(&self, now_us: i64) -> Vec<Violation> {
        let mut out = Vec::new();
        bounds::required_text("invocation_id", &self.invocation_id, &mut out);
        bounds::required_text("tool", &self.tool, &mut out);
        bounds::required_text("user_id", &self.user_id, &mut out);
        for (field, value) in [
            ("tool_use_id", &self.tool_use_id),
            ("session_id", &self.session_id),
            ("error_type", &self.error_type),
        ] {
            bounds::text(field, value, &mut out);
        }
        for (field, value, max) in [
            ("turn", self.turn, bounds::MAX_ORDINAL),
            ("duration_ms", self.duration_ms, bounds::MAX_DURATION_MS),
            (
                "estimated_tokens",
                Some(self.estimated_tokens),
                bounds::MAX_TOKENS,
            ),
        ] {
            if let Some(value) = value {
                bounds::range(field, value, 0, max, &mut out);
            }
        }
        if let Some(time) = self.start_time_us {
            check_time("start_time", time, now_us, &mut out);
        }
        bounds::labels(&self.labels, &mut out);
        out
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Canonical::new()
            .text(&self.invocation_id)
            .text(&self.tool)
            .text(&self.tool_use_id)
            .text(&self.user_id)
            .text(&self.session_id)
            .optional(self.turn)
            .text(self.status.as_str())
            .optional(self.start_time_us)
            .optional(self.duration_ms)
            .text(&self.error_type)
            .number(self.estimated_tokens)
            .labels(&self.labels)
            .finish()
    }

    /// Whether `end` is how this use, which was reported as started, ended: who used which tool
    /// where has to be the same, and so have start time and labels if both say them.
    pub fn ended_by(&self, end: &Self) -> bool {
        let same = |a: Option<i64>, b: Option<i64>| a.is_none() || b.is_none() || a == b;
        self.status == ToolStatus::Started
            && end.status != ToolStatus::Started
            && self.tool == end.tool
            && self.tool_use_id == end.tool_use_id
            && self.user_id == end.user_id
            && self.session_id == end.session_id
            && self.turn == end.turn
            && same(self.start_time_us, end.start_time_us)
            && (self.labels.is_empty() || end.labels.is_empty() || self.labels == end.labels)
    }

    /// The use as a whole after its end: the end, with what only the start said. When it began
    /// stands as the start has it, also where that is when it was recorded.
    #[must_use]
    pub fn with_end(&self, end: &Self) -> Self {
        Self {
            start_time_us: self.start_time_us,
            labels: if end.labels.is_empty() {
                self.labels.clone()
            } else {
                end.labels.clone()
            },
            ..end.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000_000_000;

    fn started() -> ToolInvocation {
        ToolInvocation {
            invocation_id: "i".into(),
            tool: "search".into(),
            user_id: "u".into(),
            turn: Some(1),
            status: ToolStatus::Started,
            start_time_us: Some(NOW),
            labels: vec![("a".into(), "b".into())],
            ..Default::default()
        }
    }

    fn ended() -> ToolInvocation {
        ToolInvocation {
            status: ToolStatus::Failed,
            error_type: "timeout".into(),
            duration_ms: Some(5),
            ..started()
        }
    }

    #[test]
    fn an_end_belongs_to_a_start_of_the_same_use() {
        assert!(started().ended_by(&ended()));
        let bare = ToolInvocation {
            start_time_us: None,
            labels: Vec::new(),
            ..ended()
        };
        assert!(started().ended_by(&bare));
        let whole = started().with_end(&bare);
        assert_eq!(whole, ended());
        for other in [
            started(),
            ToolInvocation {
                tool: "other".into(),
                ..ended()
            },
            ToolInvocation {
                tool_use_id: "other".into(),
                ..ended()
            },
            ToolInvocation {
                user_id: "other".into(),
                ..ended()
            },
            ToolInvocation {
                session_id: "other".into(),
                ..ended()
            },
            ToolInvocation {
                turn: None,
                ..ended()
            },
            ToolInvocation {
                start_time_us: Some(NOW + 1),
                ..ended()
            },
            ToolInvocation {
                labels: vec![("a".into(), "c".into())],
                ..ended()
            },
        ] {
            assert!(!started().ended_by(&other), "{other:?}");
        }
        assert!(!ended().ended_by(&ended()));
    }

    #[test]
    fn bounds_name_their_fields() {
        assert_eq!(ended().check(NOW), []);
        let long = "x".repeat(256);
        let bad = ToolInvocation {
            invocation_id: String::new(),
            tool: long.clone(),
            tool_use_id: long.clone(),
            user_id: String::new(),
            session_id: long.clone(),
            turn: Some(-1),
            start_time_us: Some(0),
            duration_ms: Some(bounds::MAX_DURATION_MS + 1),
            error_type: long,
            estimated_tokens: -1,
            labels: vec![("tokenmeter.x".into(), String::new())],
            ..Default::default()
        };
        let fields: Vec<_> = bad.check(NOW).into_iter().map(|v| v.field).collect();
        assert_eq!(
            fields,
            [
                "invocation_id",
                "tool",
                "user_id",
                "tool_use_id",
                "session_id",
                "error_type",
                "turn",
                "duration_ms",
                "estimated_tokens",
                "start_time",
                "labels[tokenmeter.x].key",
            ]
        );
    }
}
