//! The vocabulary of tokenmeter and the rules that need nothing but numbers.
//!
//! The rule of this crate: no I/O, no async, no protos, no clock. Everything here is a pure
//! function of its arguments, so it can be tested against a few lines of reference code.

pub mod bounds;
pub mod counts;
pub mod event;
pub mod fault;
pub mod fingerprint;
pub mod id;
pub mod item;
pub mod limit;
pub mod money;
pub mod price;
pub mod provider;
pub mod ratio;
pub mod tier;
pub mod totals;
pub mod zone;
