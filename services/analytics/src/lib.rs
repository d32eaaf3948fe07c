//! Answering what was used, from the ledger's totals and events.
//!
//! The rule of this crate: `grpc.rs` converts, calls, converts back; `service.rs` knows no proto;
//! it never talks to metering, the two share the ledger.

mod error;
mod grpc;
pub mod live;
mod service;

pub use error::Error;
pub use grpc::Grpc;
pub use live::Live;
pub use service::Analytics;
