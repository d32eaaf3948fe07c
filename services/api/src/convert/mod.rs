//! Between the wire and the model.
//!
//! Converting checks only what the model's types cannot hold; bounds are the model's to check
//! (`TokenCounts::check`, `Line::check`). Paths in violations are those of the contract.

pub mod counts;
pub mod event;
pub mod item;
pub mod limit;
pub mod money;
pub mod price;
pub mod tier;
pub mod time;
pub mod totals;
