//! Facts about messages that carry no usage of their own; never their text (R6).

use crate::bounds::{self, Violation};
use crate::event::check_time;
use crate::fingerprint::{Canonical, Fingerprint};

/// Who wrote a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A person.
    User,
    /// The model.
    Assistant,
    /// A tool.
    Tool,
    /// The application.
    System,
}

impl Role {
    /// The name in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::System => "system",
        }
    }

    /// Reads the name in the ledger.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::User, Self::Assistant, Self::Tool, Self::System]
            .into_iter()
            .find(|role| role.as_str() == text)
    }
}

/// One message of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Names the message for ever, 1 to 255 bytes.
    pub message_id: String,
    /// The user, 1 to 255 bytes.
    pub user_id: String,
    /// The session, 1 to 255 bytes.
    pub session_id: String,
    /// Who wrote it; required.
    pub role: Option<Role>,
    /// The kind of message in the caller's words.
    pub message_type: String,
    /// Place in the session; absent means by time.
    pub sequence: Option<i64>,
    /// Why the model stopped, in the provider's own word.
    pub stop_reason: String,
    /// The tool use that it asks for or answers.
    pub tool_use_id: String,
    /// The caller's own id of the event that it came from.
    pub source_event_id: String,
    /// How long it is, in tokens, 0 to [`bounds::MAX_TOKENS`]; absent means not known.
    pub tokens: Option<i64>,
    /// When it was written, in microseconds since the Unix epoch; absent means when recorded.
    pub time_us: Option<i64>,
    /// The turn in the session.
    pub turn: Option<i64>,
}

impl Message {
    pub(super) fn check(&self, now_us: i64) -> Vec<Violation> {
        let mut out = Vec::new();
        bounds::required_text("message_id", &self.message_id, &mut out);
        bounds::required_text("user_id", &self.user_id, &mut out);
        bounds::required_text("session_id", &self.session_id, &mut out);
        if self.role.is_none() {
            let text = "is required; send one of MessageRole, not unspecified";
            out.push(Violation::new("role", text));
        }
        for (field, value) in [
            ("type", &self.message_type),
            ("stop_reason", &self.stop_reason),
            ("tool_use_id", &self.tool_use_id),
            ("source_event_id", &self.source_event_id),
        ] {
            bounds::text(field, value, &mut out);
        }
        for (field, value, max) in [
            ("sequence", self.sequence, bounds::MAX_ORDINAL),
            ("tokens", self.tokens, bounds::MAX_TOKENS),
            ("turn", self.turn, bounds::MAX_ORDINAL),
        ] {
            if let Some(value) = value {
                bounds::range(field, value, 0, max, &mut out);
            }
        }
        if let Some(time) = self.time_us {
            check_time("time", time, now_us, &mut out);
        }
        out
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Canonical::new()
            .text(&self.message_id)
            .text(&self.user_id)
            .text(&self.session_id)
            .text(self.role.map_or("", Role::as_str))
            .text(&self.message_type)
            .optional(self.sequence)
            .text(&self.stop_reason)
            .text(&self.tool_use_id)
            .text(&self.source_event_id)
            .optional(self.tokens)
            .optional(self.time_us)
            .optional(self.turn)
            .finish()
    }
}
