//! Prices.

use std::collections::BTreeMap;

use tokenmeter_model::bounds::{MIN_TIME_US, Violation};
use tokenmeter_model::price::{Component, LongContext, Price, Rates, TierRates};

use super::{tier, time};
use crate::v1;

/// A price as the wire has it; one without a version has none yet.
pub fn from_price(price: &Price) -> v1::Price {
    v1::Price {
        provider: price.provider.clone(),
        model: price.model.clone(),
        effective_from: Some(time::from_micros(price.effective_from_us)),
        version: price.version,
        source: price.source.clone(),
        tiers: price
            .tiers
            .iter()
            .map(|(tier, rates)| v1::TierRates {
                tier: v1::ServiceTier::from(*tier).into(),
                rates: from_rates(&rates.base),
                long_context: rates
                    .long_context
                    .iter()
                    .map(|long| v1::LongContextRates {
                        above_tokens: long.above_tokens,
                        rates: from_rates(&long.rates),
                    })
                    .collect(),
            })
            .collect(),
        tool_fees: price
            .fees
            .iter()
            .map(|(tool, fee)| v1::ToolFee {
                tool: tool.clone(),
                pico_usd_per_request: *fee,
            })
            .collect(),
        created_time: None,
    }
}

fn from_rates(rates: &Rates) -> Vec<v1::Rate> {
    rates
        .iter()
        .map(|(component, pico)| v1::Rate {
            component: from_component(component).into(),
            pico_usd_per_token: pico,
        })
        .collect()
}

/// A price as the model has it; `field` is its path in the request. Its version is the ledger's
/// to give. Bounds are left to `Price::check`.
pub fn price(field: &str, price: v1::Price) -> Result<Price, Violation> {
    let effective_from_us = match &price.effective_from {
        Some(at) => time::to_micros(&format!("{field}.effective_from"), at)?,
        None => MIN_TIME_US,
    };
    let mut tiers = BTreeMap::new();
    for (n, rates) in price.tiers.iter().enumerate() {
        let path = format!("{field}.tiers[{n}]");
        let tier = tier::tier(rates.tier()).ok_or_else(|| {
            Violation::new(
                format!("{path}.tier"),
                "is required; send one of ServiceTier",
            )
        })?;
        let mut long_context = Vec::with_capacity(rates.long_context.len());
        for (m, long) in rates.long_context.iter().enumerate() {
            let path = format!("{path}.long_context[{m}]");
            long_context.push(LongContext {
                above_tokens: long.above_tokens,
                rates: read_rates(&path, &long.rates)?,
            });
        }
        let read = TierRates {
            base: read_rates(&path, &rates.rates)?,
            long_context,
        };
        if tiers.insert(tier, read).is_some() {
            return Err(twice(format!("{path}.tier"), "tier"));
        }
    }
    let mut fees = BTreeMap::new();
    for (n, fee) in price.tool_fees.into_iter().enumerate() {
        if fees.insert(fee.tool, fee.pico_usd_per_request).is_some() {
            return Err(twice(format!("{field}.tool_fees[{n}].tool"), "tool"));
        }
    }
    Ok(Price {
        provider: price.provider,
        model: price.model,
        effective_from_us,
        version: 0,
        source: price.source,
        tiers,
        fees,
    })
}

fn twice(path: String, what: &str) -> Violation {
    Violation::new(path, format!("stands twice; send each {what} once"))
}

fn read_rates(field: &str, rates: &[v1::Rate]) -> Result<Rates, Violation> {
    let mut read = Rates::default();
    for (n, rate) in rates.iter().enumerate() {
        let path = format!("{field}.rates[{n}].component");
        let component = component(rate.component()).ok_or_else(|| {
            Violation::new(path.as_str(), "is required; send one of PriceComponent")
        })?;
        if read.get(component).is_some() {
            return Err(twice(path, "component"));
        }
        read.set(component, Some(rate.pico_usd_per_token));
    }
    Ok(read)
}

fn from_component(component: Component) -> v1::PriceComponent {
    use v1::PriceComponent as P;
    match component {
        Component::Input => P::Input,
        Component::Output => P::Output,
        Component::CacheRead => P::CacheRead,
        Component::CacheWrite5m => P::CacheWrite5m,
        Component::CacheWrite30m => P::CacheWrite30m,
        Component::CacheWrite1h => P::CacheWrite1h,
        Component::CacheWrite12h => P::CacheWrite12h,
        Component::CacheWriteUnspecified => P::CacheWrite,
        Component::Reasoning => P::Reasoning,
        Component::InputAudio => P::InputAudio,
        Component::InputImage => P::InputImage,
        Component::CacheReadAudio => P::CacheReadAudio,
        Component::OutputAudio => P::OutputAudio,
        Component::OutputImage => P::OutputImage,
    }
}

fn component(component: v1::PriceComponent) -> Option<Component> {
    Component::ALL
        .into_iter()
        .find(|one| from_component(*one) == component)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_price_survives_a_round_trip() {
        let shipped = tokenmeter_model::price::shipped::shipped().unwrap();
        assert!(!shipped.is_empty());
        for sent in shipped {
            assert_eq!(price("prices[0]", from_price(&sent)), Ok(sent));
        }
    }
}
