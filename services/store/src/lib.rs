//! The ports of tokenmeter with their backends.
//!
//! The rule of this crate: it never sees a proto, and nobody else sees SQL. Each port is a trait
//! with one conformance suite that every backend passes.

pub mod address;
pub mod books;
pub mod clock;
mod columns;
pub mod counters;
mod driver;
mod exports;
pub mod fault;
mod history;
pub mod ledger;
mod limits;
pub mod metrics;
pub mod migrate;
mod openings;
pub mod postgres;
mod queue;
mod rows;
pub mod rules;
mod seeds;
mod settlements;
pub mod sqlite;
mod sums;
pub mod tail;
mod touched;
