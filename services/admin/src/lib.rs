//! Administration: the price book, what waits for a price, upkeep, and how the server is.
//!
//! The rule of this crate: `grpc.rs` and `wire.rs` convert, call, convert back; the other files know
//! no proto.

mod deadline;
mod error;
mod grpc;
mod jobs;
mod limits;
mod prices;
mod reconcile;
mod reprice;
mod retention;
mod rollover;
mod status;
mod wire;

pub use error::Error;
pub use grpc::{Grpc, Upkeep};
pub use jobs::{Due, Job, JobAdmin, Plan, Schedule};
pub use limits::{Configured, Effective, LimitAdmin, Standings, Subject, Tenant};
pub use prices::{Changes, Imported, PriceAdmin, Problem};
pub use reconcile::{Decision, Reconcile, ReconcileAdmin, ReconcileReport};
pub use reprice::{ModelReport, Report, Reprice, RepriceAdmin};
pub use retention::{Purge, PurgeReport, RetentionAdmin};
pub use rollover::{RolledOver, RolloverAdmin};
pub use status::{Dependency, Probe, Status, StatusAdmin};
