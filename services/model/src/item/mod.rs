//! What is recorded beside usage: tool invocations, messages, champion cases. Each is idempotent by
//! an id of its own, and none counts in a usage total.

mod champion;
mod message;
mod tool;

pub use champion::ChampionCases;
pub use message::{Message, Role};
pub use tool::{ToolInvocation, ToolStatus};

use crate::bounds::Violation;
use crate::fingerprint::Fingerprint;

/// One item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A use of a tool (R7).
    Tool(ToolInvocation),
    /// Facts about a message (R6).
    Message(Message),
    /// Champion cases (R8).
    Champion(ChampionCases),
}

impl Item {
    /// The id under which it stands; ids of different kinds of items do not meet.
    pub fn id(&self) -> &str {
        match self {
            Self::Tool(tool) => &tool.invocation_id,
            Self::Message(message) => &message.message_id,
            Self::Champion(report) => &report.report_id,
        }
    }

    /// The field that carries the id, as in the contract.
    pub fn id_field(&self) -> &'static str {
        match self {
            Self::Tool(_) => "invocation_id",
            Self::Message(_) => "message_id",
            Self::Champion(_) => "report_id",
        }
    }

    /// The user that it concerns.
    pub fn user_mut(&mut self) -> &mut String {
        match self {
            Self::Tool(tool) => &mut tool.user_id,
            Self::Message(message) => &mut message.user_id,
            Self::Champion(report) => &mut report.user_id,
        }
    }

    /// Checks every bound and returns what is out of bounds. `now_us` is the server's clock in
    /// microseconds since the Unix epoch.
    pub fn check(&self, now_us: i64) -> Vec<Violation> {
        match self {
            Self::Tool(tool) => tool.check(now_us),
            Self::Message(message) => message.check(now_us),
            Self::Champion(report) => report.check(now_us),
        }
    }

    /// The fingerprint of what the caller supplied.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Tool(tool) => tool.fingerprint(),
            Self::Message(message) => message.fingerprint(),
            Self::Champion(report) => report.fingerprint(),
        }
    }
}
