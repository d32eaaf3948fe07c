//! Recording what model calls used: checked, turned into disjoint counts, priced, and recorded
//! exactly once.
//!
//! The rule of this crate: `grpc.rs` converts with `wire`, calls, converts back; `service.rs`, `stream.rs`,
//! `items.rs`, `void.rs` and `admission` know no proto; `error.rs` says in one place what a caller is told.

pub mod admission;
mod error;
mod grpc;
mod items;
pub mod metrics;
mod service;
pub mod stream;
mod void;
mod wire;

pub use error::Error;
pub use grpc::{Grpc, StreamSettings};
pub use items::RecordedItem;
pub use service::{Metering, Recorded};
pub use void::VoidedUsage;
