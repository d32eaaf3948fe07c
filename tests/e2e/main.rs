//! Tests on the built binary: one process a test, in a folder of its own, on a port of its own.

// clippy.toml lets tests unwrap, and does not count the helpers of a test crate as tests.
#![allow(clippy::unwrap_used)]

mod health;
