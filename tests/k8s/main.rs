//! The image and the Kubernetes manifests against the binary: what they say of its settings, ports,
//! commands and health is asked of the binary itself. There is no cluster here: the manifests are
//! rendered by kubectl and decoded by the types of the Kubernetes API.
//!
//! Each rule is a function that answers what is wrong, so that every test also shows that it turns red
//! against a planted mistake.

// clippy.toml lets tests unwrap, and does not count the helpers of a test crate as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod binary;
mod image;
mod objects;
mod overlay;
mod probes;
mod settings;
mod writes;
