//! The contracts keep their rules, and bytes that are no message are answered as documented.

// clippy.toml lets tests unwrap, and does not count the helpers of a test crate as tests.
#![allow(clippy::unwrap_used)]

mod codec;
mod contracts;
mod pages;
mod status;
