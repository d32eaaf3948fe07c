//! The Rust client of tokenmeter, the service that meters LLM tokens.
//!
//! - [`Client`] is a connection with the generated clients over it, [`metering`](Client::metering),
//!   [`analytics`](Client::analytics) and [`admin`](Client::admin), and with the everyday calls as
//!   methods.
//! - [`UsageRecorder`] records many events over one stream, exactly once.
//! - [`TokenEvents`] watches what is recorded and misses nothing.
//! - [`v1`] is the contract's messages, which are the interface: this crate wraps none of them.
//!
//! The rule of this crate: what the contract leaves to clients, to wait, to repeat, to keep and to
//! resume, is done here, once; anything else is the contract's.
//!
//! # What is repeated
//!
//! A unary call is sent again on UNAVAILABLE, a lost connection, RESOURCE_EXHAUSTED with a time to
//! retry, and DEADLINE_EXCEEDED from the server: up to 5 times, with doubling waits, no earlier than
//! the server asks, and only within the call's deadline. All unary calls of the contract are reads,
//! or carry ids by which the server knows what it has done; [`RPCS`] says which is which. A call to
//! anything else is never repeated, and streams are continued by [`UsageRecorder`] and
//! [`TokenEvents`] only.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod backoff;
mod client;
mod error;
mod events;
mod options;
mod recorder;
mod rpcs;
mod transport;

pub use client::Client;
pub use error::{Error, Result};
pub use events::{Event, TokenEvents, oldest_token};
pub use options::{DEFAULT_PORT, Options};
pub use recorder::{NotTaken, Receipt, RecorderOptions, UsageRecorder};
pub use rpcs::{RPCS, Repeat};
pub use tokenmeter_api::v1;
pub use tokenmeter_api::v1::ErrorReason;
pub use tonic::Code;
pub use tonic::codec::CompressionEncoding;
pub use transport::Transport;
