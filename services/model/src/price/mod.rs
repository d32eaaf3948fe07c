//! (being written on another branch)
#![allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quote {
    pub cost_nano_usd: i64,
    pub cache_saving_nano_usd: i64,
    pub cache_write_extra_nano_usd: i64,
    pub price_version: i64,
}
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Price {
    pub provider: String,
    pub model: String,
    pub effective_from_us: i64,
    pub version: i64,
    pub source: String,
}
