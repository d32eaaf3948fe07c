//! Estimates: what a call may use at most, before it runs.

/// Output tokens that are held where an estimate does not say.
pub const DEFAULT_MAX_OUTPUT_TOKENS: i64 = 4_096;

/// What a call may use at most, as the caller reckons.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Prompt tokens, 0 to 1,000,000,000.
    pub input_tokens: i64,
    /// The part of them that is expected from a cache, at most `input_tokens`.
    pub cache_read_tokens: i64,
    /// The most that the model may generate, 0 to 1,000,000,000; none means the tenant's default.
    pub max_output_tokens: Option<i64>,
    /// The most that the call may cost in nano-USD; none means to reckon it from the price book.
    pub cost_nano_usd: Option<i64>,
}
