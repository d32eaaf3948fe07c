//! What end-to-end tests share: the built binary as a child process, tools, recorded data.
//!
//! The rule of this crate: a test sees the service only as others do, through its ports, its output
//! and its exit. Everything here panics when the test could not go on, and says why.

// A test that cannot go on stops here; this crate is no part of the service.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod binary;
mod chance;
mod ledger;
mod places;
mod process;
mod server;
pub mod tour;
pub mod trace;

pub use binary::{binary, example, planted, release_binary};
pub use chance::Chance;
pub use ledger::{Backend, backend, postgres_only, sqlite_only};
pub use places::{free_port, repository, rounds, shared_data, tool, wait_until};
pub use process::{Finished, Process};
pub use server::{Refused, Server, Start};
pub use tokenmeter_test_postgres as postgres;
