//! Administration: the price book, what waits for a price, upkeep, and how the server is.
//!
//! The rule of this crate: `grpc.rs` converts, calls, converts back; the other files
//! know no proto.

mod deadline;
mod error;
mod grpc;
mod jobs;
mod prices;
mod reprice;
mod rollover;
mod status;
mod wire;

pub use error::Error;
pub use grpc::{Grpc, Upkeep};
pub use jobs::{Due, Job, JobAdmin, Plan, Schedule};
pub use prices::{Changes, Imported, PriceAdmin, Problem};
pub use reprice::{ModelReport, Report, Reprice, RepriceAdmin};
pub use rollover::{RolledOver, RolloverAdmin};
pub use status::{Dependency, Probe, Status, StatusAdmin};
