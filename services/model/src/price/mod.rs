//! Prices: what a provider bills per token and per tool request, since when, and in which tier.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bounds::{self, Violation};
use crate::money;
use crate::tier::ServiceTier;

pub mod book;
pub mod ceiling;
pub mod component;
pub mod file;
pub mod litellm;
pub mod quote;
pub mod shipped;

pub use book::Book;
pub use ceiling::ceiling;
pub use component::{Component, Rates};
pub use quote::{Quote, Reason, Unpriced, quote};
pub use shipped::shipped;

/// Most long-context thresholds of one tier.
pub const MAX_THRESHOLDS: usize = 16;
/// Most fees of one price. A line names at most [`bounds::MAX_TOOL_KINDS`] kinds of tools.
pub const MAX_FEES: usize = 64;
/// Latest effective-from time, 9999-12-31T23:59:59Z, in microseconds since the Unix epoch.
pub const MAX_EFFECTIVE_US: i64 = 253_402_300_799_000_000;

/// Rates that replace the base ones for the whole line once its prompt is long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongContext {
    /// Applies when the prompt has strictly more tokens than this, 1 to [`bounds::MAX_TOKENS`].
    pub above_tokens: i64,
    /// The rates above the threshold.
    pub rates: Rates,
}

/// The rates of one service tier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierRates {
    /// The rates of a prompt that passes no threshold.
    pub base: Rates,
    /// Ascending by threshold, no two alike, at most [`MAX_THRESHOLDS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub long_context: Vec<LongContext>,
}

impl TierRates {
    /// The rates of the highest threshold that `prompt` tokens are strictly above.
    pub fn long(&self, prompt: i64) -> Option<&Rates> {
        self.long_context
            .iter()
            .rev()
            .find(|long| prompt > long.above_tokens)
            .map(|long| &long.rates)
    }
}

/// What one model of one provider costs from a moment on, until a later price takes over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Canonical OpenTelemetry provider name such as `anthropic`, 1 to 255 bytes.
    pub provider: String,
    /// The model as the provider names it, 1 to 255 bytes.
    pub model: String,
    /// In force from this time on, microseconds since the Unix epoch, from
    /// [`bounds::MIN_TIME_US`] (which means always) to [`MAX_EFFECTIVE_US`].
    pub effective_from_us: i64,
    /// Assigned by the ledger, 1 or more; 0 before.
    pub version: i64,
    /// Where the figures come from, at most 255 bytes.
    pub source: String,
    /// Rates by service tier. [`ServiceTier::Standard`] is required; `provisioned` and `other`
    /// are refused, because they price as standard.
    pub tiers: BTreeMap<ServiceTier, TierRates>,
    /// Fee per request to a server-side tool, by tool, in pico-USD, 0 to
    /// [`money::MAX_FEE_PICO_USD`]; at most [`MAX_FEES`]. A tool without a fee here has none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fees: BTreeMap<String, i64>,
}

impl Price {
    /// Checks every bound of the price. `field` is its path in the contract.
    pub fn check(&self, field: &str, out: &mut Vec<Violation>) {
        bounds::required_text(format_args!("{field}.provider"), &self.provider, out);
        if self.provider.contains('/') {
            let text = "has a '/', which parts provider from model; send the provider's name alone";
            out.push(Violation::new(format!("{field}.provider"), text));
        }
        bounds::required_text(format_args!("{field}.model"), &self.model, out);
        bounds::text(format_args!("{field}.source"), &self.source, out);
        bounds::range(
            format_args!("{field}.effective_from"),
            self.effective_from_us,
            bounds::MIN_TIME_US,
            MAX_EFFECTIVE_US,
            out,
        );
        bounds::range(
            format_args!("{field}.version"),
            self.version,
            0,
            i64::MAX,
            out,
        );
        let standard = self.tiers.get(&ServiceTier::Standard);
        if standard.is_none_or(|rates| rates.base.is_empty()) {
            out.push(Violation::new(
                format!("{field}.tiers.standard"),
                "has no rate; send at least one, such as input",
            ));
        }
        for (tier, rates) in &self.tiers {
            check_tier(
                &format!("{field}.tiers.{}", tier.as_str()),
                *tier,
                rates,
                out,
            );
        }
        self.check_fees(field, out);
    }

    fn check_fees(&self, field: &str, out: &mut Vec<Violation>) {
        if self.fees.len() > MAX_FEES {
            out.push(Violation::new(
                format!("{field}.fees"),
                format!(
                    "{} fees is too many; send at most {MAX_FEES}",
                    self.fees.len()
                ),
            ));
        }
        for (tool, fee) in &self.fees {
            let path = format!("{field}.fees[{tool:.64}]");
            bounds::required_text(&path, tool, out);
            bounds::range(&path, *fee, 0, money::MAX_FEE_PICO_USD, out);
        }
    }
}

fn check_tier(path: &str, tier: ServiceTier, rates: &TierRates, out: &mut Vec<Violation>) {
    if matches!(tier, ServiceTier::Provisioned | ServiceTier::Other) {
        out.push(Violation::new(
            path,
            "has no rates of its own, it is priced as standard; leave it out",
        ));
    }
    check_rates(path, &rates.base, out);
    if rates.long_context.len() > MAX_THRESHOLDS {
        out.push(Violation::new(
            format!("{path}.long_context"),
            format!(
                "{} thresholds is too many; send at most {MAX_THRESHOLDS}",
                rates.long_context.len()
            ),
        ));
    }
    let mut previous = 0;
    for (index, long) in rates.long_context.iter().enumerate() {
        let at = format!("{path}.long_context[{index}]");
        bounds::range(
            format_args!("{at}.above_tokens"),
            long.above_tokens,
            1,
            bounds::MAX_TOKENS,
            out,
        );
        if long.above_tokens <= previous && index > 0 {
            out.push(Violation::new(
                format!("{at}.above_tokens"),
                format!(
                    "{} does not follow {previous}; send thresholds in ascending order",
                    long.above_tokens
                ),
            ));
        }
        previous = long.above_tokens;
        check_rates(&at, &long.rates, out);
    }
}

fn check_rates(path: &str, rates: &Rates, out: &mut Vec<Violation>) {
    for (component, pico) in rates.iter() {
        bounds::range(
            format_args!("{path}.{}", component.as_str()),
            pico,
            0,
            money::MAX_UNIT_PRICE,
            out,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price() -> Price {
        let base: Rates = [(Component::Input, 3_000_000)].into_iter().collect();
        Price {
            provider: "anthropic".into(),
            model: "claude".into(),
            effective_from_us: bounds::MIN_TIME_US,
            version: 0,
            source: String::new(),
            tiers: BTreeMap::from([(
                ServiceTier::Standard,
                TierRates {
                    base,
                    long_context: Vec::new(),
                },
            )]),
            fees: BTreeMap::from([("web_search".into(), 10_000_000_000)]),
        }
    }

    fn fields(price: &Price) -> Vec<String> {
        let mut out = Vec::new();
        price.check("price", &mut out);
        out.into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn a_sound_price_passes_and_survives_json() {
        let price = price();
        assert!(fields(&price).is_empty());
        let json = serde_json::to_string(&price).unwrap();
        assert_eq!(serde_json::from_str::<Price>(&json).unwrap(), price);
    }

    #[test]
    fn a_provider_has_no_slash() {
        let mut price = shipped::shipped().unwrap().remove(0);
        price.provider = "acme/eu".into();
        let mut out = Vec::new();
        price.check("price", &mut out);
        assert_eq!(out[0].field, "price.provider");
    }

    #[test]
    fn every_bound_is_named() {
        let mut bad = price();
        bad.provider.clear();
        bad.effective_from_us = 0;
        bad.version = -1;
        bad.fees
            .insert("web_search".into(), money::MAX_FEE_PICO_USD + 1);
        bad.tiers.insert(ServiceTier::Other, TierRates::default());
        let standard = bad.tiers.get_mut(&ServiceTier::Standard).unwrap();
        standard
            .base
            .set(Component::Input, Some(money::MAX_UNIT_PRICE + 1));
        let long = LongContext {
            above_tokens: 200_000,
            rates: Rates::default(),
        };
        standard.long_context = vec![long, long];
        assert_eq!(
            fields(&bad),
            [
                "price.provider",
                "price.effective_from",
                "price.version",
                "price.tiers.standard.input",
                "price.tiers.standard.long_context[1].above_tokens",
                "price.tiers.other",
                "price.fees[web_search]",
            ]
        );
    }

    #[test]
    fn a_price_needs_a_standard_rate() {
        let mut bad = price();
        bad.tiers.clear();
        assert_eq!(fields(&bad), ["price.tiers.standard"]);
    }
}
