//! Tests on the built binary: one process a test, in a folder of its own, on a port of its own.

// clippy.toml lets tests unwrap, and does not count the helpers of a test crate as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod authorize;
mod bad_events;
mod bad_requests;
mod cli;
mod cli_limits;
mod cli_live;
mod corrections;
mod crash;
mod crash_nodes;
mod durability;
mod everyday;
mod everyday_access;
mod feed;
mod feed_nodes;
mod health;
mod import;
mod import_files;
mod items;
mod jobs;
mod lifecycle;
mod limits_admin;
mod metrics;
mod migrate;
mod no_overspend;
mod periods;
mod ready;
mod reflection;
mod retention;
mod rust_client;
mod stream_usage;
mod support;
mod telemetry;
mod tour;
mod traces;
