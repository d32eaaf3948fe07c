//! The contracts keep their rules, and bytes that are no message are answered as documented.

mod codec;
mod contracts;
mod pages;
mod status;
