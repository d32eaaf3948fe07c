//! Recording what model calls used: checked, turned into disjoint counts, priced, and recorded
//! exactly once.
//!
//! The rule of this crate: `grpc.rs` converts, calls, converts back; `service.rs` knows no proto;
//! `error.rs` says in one place what a caller is told.

mod error;
mod grpc;
pub mod metrics;
mod service;

pub use error::Error;
pub use grpc::Grpc;
pub use service::{Metering, Recorded};
