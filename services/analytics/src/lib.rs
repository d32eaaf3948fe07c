//! Answering what was used, from the ledger's totals and events.
//!
//! The rule of this crate: `grpc.rs` converts, calls, converts back; `service.rs` and the modules
//! of one theme each know no proto;
//! it never talks to metering, the two share the ledger.

mod closed;
mod error;
mod grpc;
mod hits;
pub mod live;
mod messages;
mod paging;
mod periods;
mod service;
mod sessions;
mod tools;
mod wire;

pub use error::Error;
pub use grpc::Grpc;
pub use live::Live;
pub use periods::{Period, PeriodPage, PeriodQuery};
pub use service::Analytics;
pub use sessions::{ListedSession, SessionPage};
