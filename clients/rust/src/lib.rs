//! The Rust client of tokenmeter.
