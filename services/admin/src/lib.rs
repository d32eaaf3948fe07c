//! Administration: the price book, what waits for a price, and how the server is.
//!
//! The rule of this crate: `grpc.rs` converts, calls, converts back; `prices.rs`, `reprice.rs`
//! and `status.rs` know no proto.

mod deadline;
mod error;
mod grpc;
mod prices;
mod reprice;
mod status;

pub use error::Error;
pub use grpc::Grpc;
pub use prices::{Changes, Imported, PriceAdmin, Problem};
pub use reprice::{ModelReport, Report, Reprice, RepriceAdmin};
pub use status::{Dependency, Probe, Status, StatusAdmin};
