//! What a line costs. See `docs/pricing.md` for the rules in words.

use crate::bounds;
use crate::counts::{Line, TokenCounts};
use crate::money;
use crate::tier::ServiceTier;

use super::{Component, Price, Rates, TierRates};

/// What a line costs and what the cache saved it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quote {
    /// The line's cost in nano-USD, 0 to [`money::MAX_LINE_COST_NANO_USD`].
    pub cost_nano_usd: i64,
    /// Gross saving of cache reads in nano-USD: what the tokens read from the cache would have
    /// cost as uncached input, less what they cost. Negative when reads are dearer than input.
    /// 0 when the price has no input rate to compare with.
    pub cache_saving_nano_usd: i64,
    /// What cache writes cost beyond plain input, in nano-USD; negative when they cost less.
    /// The net saving is `cache_saving_nano_usd` less this.
    pub cache_write_extra_nano_usd: i64,
    /// Version of the price that was used.
    pub price_version: i64,
}

/// Why a line has no cost. Never the same as a cost of zero (R16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unpriced: {reason}")]
pub struct Unpriced {
    /// Why.
    pub reason: Reason,
}

/// The reasons a line is unpriced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The book has no price for the model at that time.
    #[error("no price for the model at that time")]
    NoPrice,
    /// Tokens of this component, and no rate for it nor for what stands in for it.
    #[error("the price has no rate for {}", .0.as_str())]
    NoRate(Component),
    /// Reasoning, audio and image tokens add up to more than the output they are parts of.
    #[error("reasoning, audio and image tokens add up to more than output")]
    OverlappingOutput,
    /// A count is out of its bound, or a part is larger than its whole.
    #[error("a count is out of bounds")]
    InvalidCounts,
    /// The cost is above [`money::MAX_LINE_COST_NANO_USD`].
    #[error("the cost is above 100,000 USD")]
    TooLarge,
}

impl Reason {
    /// The stable name in ledgers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPrice => "no_price",
            Self::NoRate(_) => "no_rate",
            Self::OverlappingOutput => "overlapping_output",
            Self::InvalidCounts => "invalid_counts",
            Self::TooLarge => "too_large",
        }
    }
}

impl From<Reason> for Unpriced {
    fn from(reason: Reason) -> Self {
        Self { reason }
    }
}

/// Prices one line in the tier it was served in.
///
/// The cost is Σ tokens × rate + Σ tool requests × fee in pico-USD, summed exactly and rounded
/// once, half to even, to nano-USD. The rates of a component are looked for in the tier's
/// long-context rates, standard's long-context rates, the tier's base and standard's base, and
/// only then in the same places for the component's parent; reasoning takes the first place that
/// has a reasoning or an output rate.
pub fn quote(price: &Price, line: &Line, tier: ServiceTier) -> Result<Quote, Unpriced> {
    let counts = &line.counts;
    let parts = disjoint(counts)?;
    let places = Places::new(price, tier, counts.prompt());
    let mut cost = 0_i128;
    let mut saving = 0_i128;
    let mut extra = 0_i128;
    for (component, tokens) in parts {
        if tokens == 0 {
            continue;
        }
        let rate = places.rate(component).ok_or(Reason::NoRate(component))?;
        let tokens = i128::from(tokens);
        cost += tokens * i128::from(rate);
        let Some((side, uncached)) = compared_with(component) else {
            continue;
        };
        if let Some(uncached) = places.rate(uncached) {
            match side {
                Side::Read => saving += tokens * i128::from(uncached - rate),
                Side::Write => extra += tokens * i128::from(rate - uncached),
            }
        }
    }
    for (tool, requests) in &line.tool_requests {
        if !(0..=bounds::MAX_TOOL_REQUESTS).contains(requests) {
            return Err(Reason::InvalidCounts.into());
        }
        let fee = price.fees.get(tool).copied().unwrap_or(0);
        cost += i128::from(*requests) * i128::from(fee);
    }
    Ok(Quote {
        cost_nano_usd: bounded(cost)?,
        cache_saving_nano_usd: bounded(saving)?,
        cache_write_extra_nano_usd: bounded(extra)?,
        price_version: price.version,
    })
}

fn bounded(pico: i128) -> Result<i64, Reason> {
    let limit = money::MAX_LINE_COST_NANO_USD;
    match money::round_half_even_pico_to_nano(pico) {
        Some(nano) if (-limit..=limit).contains(&nano) => Ok(nano),
        _ => Err(Reason::TooLarge),
    }
}

enum Side {
    Read,
    Write,
}

/// For a component of the cache: which side it is on, and what its tokens would have been.
fn compared_with(component: Component) -> Option<(Side, Component)> {
    match component {
        Component::CacheRead => Some((Side::Read, Component::Input)),
        Component::CacheReadAudio => Some((Side::Read, Component::InputAudio)),
        Component::CacheWriteUnspecified
        | Component::CacheWrite5m
        | Component::CacheWrite30m
        | Component::CacheWrite1h
        | Component::CacheWrite12h => Some((Side::Write, Component::Input)),
        _ => None,
    }
}

/// Splits counts into tokens that are each billed once.
fn disjoint(counts: &TokenCounts) -> Result<[(Component, i64); 14], Reason> {
    if counts
        .named()
        .iter()
        .any(|(_, tokens)| !(0..=bounds::MAX_TOKENS).contains(tokens))
    {
        return Err(Reason::InvalidCounts);
    }
    let input = counts.input - counts.input_audio - counts.input_image;
    let cache_read = counts.cache_read - counts.cache_read_audio;
    if input < 0 || cache_read < 0 {
        return Err(Reason::InvalidCounts);
    }
    let output = counts.output - counts.reasoning - counts.output_audio - counts.output_image;
    if output < 0 {
        return Err(Reason::OverlappingOutput);
    }
    Ok([
        (Component::Input, input),
        (Component::Output, output),
        (Component::CacheRead, cache_read),
        (
            Component::CacheWriteUnspecified,
            counts.cache_write.unspecified,
        ),
        (Component::CacheWrite5m, counts.cache_write.ttl_5m),
        (Component::CacheWrite30m, counts.cache_write.ttl_30m),
        (Component::CacheWrite1h, counts.cache_write.ttl_1h),
        (Component::CacheWrite12h, counts.cache_write.ttl_12h),
        (Component::Reasoning, counts.reasoning),
        (Component::InputAudio, counts.input_audio),
        (Component::OutputAudio, counts.output_audio),
        (Component::CacheReadAudio, counts.cache_read_audio),
        (Component::InputImage, counts.input_image),
        (Component::OutputImage, counts.output_image),
    ])
}

/// Where rates are looked for, most specific first.
pub(super) struct Places<'a>([Option<&'a Rates>; 4]);

impl<'a> Places<'a> {
    pub(super) fn new(price: &'a Price, tier: ServiceTier, prompt: i64) -> Self {
        let standard = price.tiers.get(&ServiceTier::Standard);
        let own = own_tier(price, tier);
        Self([
            own.and_then(|rates| rates.long(prompt)),
            standard.and_then(|rates| rates.long(prompt)),
            own.map(|rates| &rates.base),
            standard.map(|rates| &rates.base),
        ])
    }

    pub(super) fn rate(&self, component: Component) -> Option<i64> {
        if component == Component::Reasoning {
            return self.first(|rates| {
                rates
                    .get(Component::Reasoning)
                    .or_else(|| rates.get(Component::Output))
            });
        }
        let mut wanted = Some(component);
        while let Some(component) = wanted {
            if let Some(rate) = self.first(|rates| rates.get(component)) {
                return Some(rate);
            }
            wanted = component.parent();
        }
        None
    }

    fn first(&self, pick: impl Fn(&Rates) -> Option<i64>) -> Option<i64> {
        self.0.iter().flatten().find_map(|rates| pick(rates))
    }
}

/// The rates of a tier other than standard. A price without fast rates serves fast as priority.
pub(super) fn own_tier(price: &Price, tier: ServiceTier) -> Option<&TierRates> {
    match tier {
        ServiceTier::Standard | ServiceTier::Provisioned | ServiceTier::Other => None,
        ServiceTier::Fast => price
            .tiers
            .get(&ServiceTier::Fast)
            .or_else(|| price.tiers.get(&ServiceTier::Priority)),
        ServiceTier::Batch | ServiceTier::Priority | ServiceTier::Flex => price.tiers.get(&tier),
    }
}

#[cfg(test)]
#[path = "quote_tests.rs"]
mod tests;
