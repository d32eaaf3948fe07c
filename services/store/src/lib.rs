//! The ports of tokenmeter with their backends.
//!
//! The rule of this crate: it never sees a proto, and nobody else sees SQL. Each port is a trait
//! with one conformance suite that every backend passes.

pub mod books;
pub mod clock;
pub mod fault;
pub mod ledger;
pub mod metrics;
mod openings;
pub mod postgres;
mod rows;
pub mod sqlite;
pub mod tail;
mod touched;
