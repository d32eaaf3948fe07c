//! The client against a server that does what a test tells it, and against the built binary.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may stop at the first surprise

mod calls;
mod events;
mod fake;
mod recorder;
mod recorder_ends;
mod server;
mod streams;
