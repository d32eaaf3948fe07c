//! Administration: the price book, what waits for a price, and how the server is.
//!
//! The rule of this crate: `grpc.rs` converts, calls, converts back; `prices.rs` and `status.rs`
//! know no proto.

mod error;
mod grpc;
mod prices;
mod status;

pub use error::Error;
pub use grpc::Grpc;
pub use prices::{Changes, Imported, PriceAdmin, Problem};
pub use status::{Dependency, Probe, Status, StatusAdmin};
