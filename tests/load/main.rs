//! Tests with a load that only the released binary bears in minutes. `TOKENMETER_LOAD_EVENTS` sets
//! how many events; a million if it says nothing.

// Not `required-features`, with which `cargo test --test '*'` fails where the feature is off.
#![cfg(feature = "load")]
// clippy.toml lets tests unwrap, and does not count the helpers of a test crate as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod reconcile;
mod stalled;
