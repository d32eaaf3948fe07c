//! What is recorded beside usage.

use tokenmeter_model::fingerprint::Fingerprint;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::item::Item;

/// An item that passed every check, ready to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemSubmission {
    /// Whose it is.
    pub tenant: TenantId,
    /// What the caller supplied.
    pub item: Item,
    /// [`Item::fingerprint`] of it.
    pub fingerprint: Fingerprint,
    /// The server's clock when it arrived, in microseconds since the Unix epoch.
    pub recorded_at_us: i64,
}

impl ItemSubmission {
    /// When it happened, in microseconds since the Unix epoch: as the caller says, else when it
    /// arrived.
    pub fn time_us(&self) -> i64 {
        let stated = match &self.item {
            Item::Tool(tool) => tool.start_time_us,
            Item::Message(message) => message.time_us,
            Item::Champion(report) => report.time_us,
        };
        stated.unwrap_or(self.recorded_at_us)
    }
}

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemOutcome {
    /// It stands in the ledger now; an end joined the start that stood there.
    Recorded {
        /// When the item, or its start, was first recorded, in microseconds since the Unix epoch.
        recorded_at_us: i64,
    },
    /// It stood there before with the same content.
    Duplicate {
        /// When it was first recorded, in microseconds since the Unix epoch.
        recorded_at_us: i64,
    },
    /// Its id stands there with another content; nothing changed.
    Conflict,
    /// Its time is sealed; nothing changed.
    TooOld {
        /// The earliest time that is accepted, in microseconds since the Unix epoch.
        oldest_us: i64,
    },
}
