//! The contracts of tokenmeter as Rust: generated messages, clients and servers, the descriptor
//! set, conversions to and from the model, and how failures become statuses.
//!
//! The rule of this crate: no logic beyond converting. What a value may be is decided in
//! `tokenmeter-model`; what it is called on the wire is decided in `proto/`.

pub mod codec;
pub mod convert;
pub mod json;
pub mod page;
pub mod status;
pub mod streams;

/// The domain of every `google.rpc.ErrorInfo` that the service sends.
pub const DOMAIN: &str = "tokenmeter.v1";

/// Every contract file with its imports and comments, as an encoded `FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/tokenmeter.v1.binpb"));

/// Messages, clients and servers as generated from `proto/tokenmeter/v1`.
#[allow(
    clippy::all,
    missing_docs,
    unreachable_pub,
    rustdoc::all,
    rust_2018_idioms
)]
pub mod v1 {
    tonic::include_proto!("tokenmeter.v1");
}
