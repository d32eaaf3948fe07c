//! The log: everything recorded, in commit order.

use std::sync::Arc;

use tokenmeter_model::event::Recorded;
use tokenmeter_model::price::Quote;

use super::{Error, Range};

/// Why a log cannot be read on from a position: who does would miss something. It is told so when it
/// comes back with its token.
pub(crate) const DROPPED: &str = "a part of the log after this position was dropped by retention";

/// Whether the log could not be read because the part where it was to begin was dropped.
pub fn was_dropped(error: &Error) -> bool {
    matches!(error, Error::Unavailable(text) if text == DROPPED)
}

/// A stretch of a tenant's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// What happened, in commit order. Never a part of an entry.
    pub entries: Vec<Arc<Entry>>,
    /// The position up to which everything is in `entries`: where the next page goes on. It moves
    /// on even if nothing of this tenant happened, and never past what is on disk.
    pub through: i64,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position of the last row that it wrote: who has seen it goes on after this.
    pub position: i64,
    /// What happened.
    pub change: Change,
}

/// What happened to an event. Events are as they stood right after it, so that who folds the
/// changes one after the other arrives at today's totals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was recorded.
    Recorded(Recorded),
    /// It was taken out of every total; `voided` is set.
    Voided(Recorded),
    /// Lines of it got another price.
    Repriced {
        /// The event with its new prices.
        event: Recorded,
        /// Its prices before, one a line.
        previous: Vec<Option<Quote>>,
        /// The run that did it.
        reprice_id: String,
    },
}

/// Which events to export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportQuery {
    /// The position of the moment: what was written after it is left out.
    pub as_of: i64,
    /// Only events of this user; empty means all.
    pub user_id: String,
    /// Only events charged in this range.
    pub range: Option<Range>,
    /// Voided events too.
    pub include_voided: bool,
    /// Only events after this charge time and position: where the last page ended.
    pub after: Option<(i64, i64)>,
    /// At most so many events.
    pub limit: i64,
}
