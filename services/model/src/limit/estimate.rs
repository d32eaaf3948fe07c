//! Estimates: what a call may use at most, before it runs.

use crate::bounds::{self, Violation};
use crate::money;

use super::Amounts;

/// Output tokens that are held where neither an estimate nor the tenant says.
pub const DEFAULT_MAX_OUTPUT_TOKENS: i64 = 4_096;
/// Largest cost of an estimate in nano-USD: no event can cost more.
#[expect(clippy::cast_possible_wrap, reason = "16 fits")]
pub const MAX_COST_NANO_USD: i64 = money::MAX_LINE_COST_NANO_USD * bounds::MAX_LINES as i64;

/// What a call may use at most, as the caller reckons.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Prompt tokens, 0 to 1,000,000,000.
    pub input_tokens: i64,
    /// The part of them that is expected from a cache, at most `input_tokens`.
    pub cache_read_tokens: i64,
    /// The most that the model may generate, 0 to 1,000,000,000; none means the tenant's default.
    pub max_output_tokens: Option<i64>,
    /// The most that the call may cost in nano-USD, 0 to [`MAX_COST_NANO_USD`]; none means to reckon
    /// it from the price book.
    pub cost_nano_usd: Option<i64>,
}

impl Estimate {
    /// Checks every bound. `field` is its path in the contract.
    pub fn check(&self, field: &str, out: &mut Vec<Violation>) {
        let input = format_args!("{field}.input_tokens");
        bounds::range(input, self.input_tokens, 0, bounds::MAX_TOKENS, out);
        let cached = format_args!("{field}.cache_read_tokens");
        bounds::range(cached, self.cache_read_tokens, 0, bounds::MAX_TOKENS, out);
        if self.cache_read_tokens > self.input_tokens && self.input_tokens >= 0 {
            let text = format!(
                "{} is more than input_tokens ({}), which includes it",
                self.cache_read_tokens, self.input_tokens
            );
            out.push(Violation::new(format!("{field}.cache_read_tokens"), text));
        }
        if let Some(output) = self.max_output_tokens {
            let path = format_args!("{field}.max_output_tokens");
            bounds::range(path, output, 0, bounds::MAX_TOKENS, out);
        }
        if let Some(cost) = self.cost_nano_usd
            && !(0..=MAX_COST_NANO_USD).contains(&cost)
        {
            let text = "is out of bounds; send 0 to 1600000 USD";
            out.push(Violation::new(format!("{field}.cost"), text));
        }
    }

    /// What to hold: one request, the tokens, and the cost that the caller named, else `cost_nano_usd`
    /// as the price book has it (see [`crate::price::ceiling`]), else none.
    pub fn amounts(&self, default_max_output: i64, cost_nano_usd: Option<i64>) -> Amounts {
        Amounts {
            requests: 1,
            input: self.input_tokens,
            uncached_input: self.input_tokens - self.cache_read_tokens,
            output: self.max_output_tokens.unwrap_or(default_max_output),
            cost_nano_usd: self.cost_nano_usd.or(cost_nano_usd).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(estimate: &Estimate) -> Vec<String> {
        let mut out = Vec::new();
        estimate.check("estimate", &mut out);
        out.into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn bounds_themselves_pass_and_one_beyond_is_named() {
        assert!(fields(&Estimate::default()).is_empty());
        let most = Estimate {
            input_tokens: 1_000_000_000,
            cache_read_tokens: 1_000_000_000,
            max_output_tokens: Some(1_000_000_000),
            cost_nano_usd: Some(MAX_COST_NANO_USD),
        };
        assert!(fields(&most).is_empty());
        let more = Estimate {
            input_tokens: 1_000_000_001,
            cache_read_tokens: -1,
            max_output_tokens: Some(1_000_000_001),
            cost_nano_usd: Some(MAX_COST_NANO_USD + 1),
        };
        assert_eq!(
            fields(&more),
            [
                "estimate.input_tokens",
                "estimate.cache_read_tokens",
                "estimate.max_output_tokens",
                "estimate.cost",
            ]
        );
        let parts = Estimate {
            input_tokens: 10,
            cache_read_tokens: 11,
            cost_nano_usd: Some(-1),
            ..Estimate::default()
        };
        assert_eq!(
            fields(&parts),
            ["estimate.cache_read_tokens", "estimate.cost"]
        );
    }

    #[test]
    fn the_callers_word_goes_before_the_defaults() {
        let open = Estimate {
            input_tokens: 1_000,
            cache_read_tokens: 400,
            ..Estimate::default()
        };
        let held = Amounts {
            requests: 1,
            input: 1_000,
            uncached_input: 600,
            output: 4_096,
            cost_nano_usd: 7,
        };
        assert_eq!(open.amounts(DEFAULT_MAX_OUTPUT_TOKENS, Some(7)), held);
        let said = Estimate {
            max_output_tokens: Some(0),
            cost_nano_usd: Some(0),
            ..open
        };
        let held = Amounts {
            output: 0,
            cost_nano_usd: 0,
            ..held
        };
        assert_eq!(said.amounts(DEFAULT_MAX_OUTPUT_TOKENS, Some(7)), held);
        assert_eq!(open.amounts(1, None).cost_nano_usd, 0);
    }
}
