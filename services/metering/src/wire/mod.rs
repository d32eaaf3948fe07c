//! Between the contract and this crate's own types.

pub(crate) mod admission;
pub(crate) mod budget;
pub(crate) mod ratelimit;
pub(crate) mod record;
