//! An event as the ledger keeps it.

use super::Event;
use crate::price::Quote;

/// An event as it stands in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Place of its first line in the ledger's commit order.
    pub position: i64,
    /// What the caller supplied.
    pub event: Event,
    /// The lines with their first quotes, or with today's when asked for.
    pub quotes: Vec<Option<Quote>>,
    /// The time it is charged at, in microseconds since the Unix epoch.
    pub charge_time_us: i64,
    /// When it was first recorded, in microseconds since the Unix epoch.
    pub recorded_at_us: i64,
    /// The API key with which it was recorded; empty means other credentials.
    pub api_key_id: String,
    /// Present if it was taken out of every total.
    pub voided: Option<Voided>,
}

/// That an event was taken out of every total (R10). It stays listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voided {
    /// When, in microseconds since the Unix epoch.
    pub at_us: i64,
    /// Why, in the words of who did.
    pub reason: String,
}
