//! What a call can cost at most, before it runs.

use crate::limit::Amounts;
use crate::money;
use crate::tier::ServiceTier;

use super::quote::{Places, own_tier};
use super::{Component, Price, Reason, Unpriced};

/// Pico-USD in one nano-USD.
const PICO_PER_NANO: i128 = 1_000;

/// The most in nano-USD that a line can cost whose prompt has at most `input` tokens, at most
/// `uncached_input` of them not from the cache, and at most `output` tokens of output; requests and
/// cost of `held` do not matter. Each amount is 0 to [`crate::bounds::MAX_TOKENS`].
///
/// What is uncached is reckoned at the dearer of the rates for input and cache reads, the rest as
/// cache reads, output at the dearer of the rates for output and reasoning; at the length of prompt
/// for which that is the most, because rates above a long-context threshold may be lower. Rounded up,
/// and never more than [`money::MAX_LINE_COST_NANO_USD`], as no line costs more.
///
/// Not covered, so that such a line can cost more: cache writes dearer than input, audio and images,
/// fees of server-side tools, and a dearer service tier than the one given. An event of several lines
/// (models) costs the sum of its lines.
///
/// # Errors
/// [`Reason::NoRate`] when a line of these amounts could be without a price.
pub fn ceiling(price: &Price, tier: ServiceTier, held: &Amounts) -> Result<i64, Unpriced> {
    let mut most = at(price, tier, held, held.input)?;
    // Within one set of rates a longer prompt costs more: each is at its dearest just before the next
    // threshold.
    let own = own_tier(price, tier);
    let standard = price.tiers.get(&ServiceTier::Standard);
    for rates in own.into_iter().chain(standard) {
        for long in &rates.long_context {
            if long.above_tokens < held.input {
                most = most.max(at(price, tier, held, long.above_tokens)?);
            }
        }
    }
    let nano = (most + PICO_PER_NANO - 1) / PICO_PER_NANO;
    let limit = money::MAX_LINE_COST_NANO_USD;
    Ok(i64::try_from(nano).map_or(limit, |nano| nano.min(limit)))
}

/// The most in pico-USD with a prompt of exactly so many tokens.
fn at(price: &Price, tier: ServiceTier, held: &Amounts, prompt: i64) -> Result<i128, Reason> {
    let places = Places::new(price, tier, prompt);
    let uncached = held.uncached_input.min(prompt);
    let cached = prompt - uncached;
    let mut most = 0;
    for (tokens, component, or_else) in [
        (uncached, Component::Input, Component::CacheRead),
        (cached, Component::CacheRead, Component::CacheRead),
        (held.output, Component::Output, Component::Reasoning),
    ] {
        if tokens == 0 {
            continue;
        }
        let rate = places.rate(component).ok_or(Reason::NoRate(component))?;
        let rate = places.rate(or_else).map_or(rate, |other| other.max(rate));
        most += i128::from(tokens) * i128::from(rate);
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::bounds;
    use crate::counts::{Line, TokenCounts};
    use crate::price::{LongContext, Rates, TierRates, quote, shipped};

    fn price(tiers: impl IntoIterator<Item = (ServiceTier, TierRates)>) -> Price {
        Price {
            provider: "acme".into(),
            model: "m".into(),
            effective_from_us: bounds::MIN_TIME_US,
            version: 1,
            source: String::new(),
            tiers: tiers.into_iter().collect(),
            fees: BTreeMap::new(),
        }
    }

    fn rates(list: &[(Component, i64)]) -> Rates {
        list.iter().copied().collect()
    }

    fn held(input: i64, uncached_input: i64, output: i64) -> Amounts {
        Amounts {
            requests: 1,
            input,
            uncached_input,
            output,
            cost_nano_usd: 0,
        }
    }

    fn standard(base: &[(Component, i64)], long: &[(i64, &[(Component, i64)])]) -> Price {
        let long_context = long.iter().map(|(above_tokens, list)| LongContext {
            above_tokens: *above_tokens,
            rates: rates(list),
        });
        let tier = TierRates {
            base: rates(base),
            long_context: long_context.collect(),
        };
        price([(ServiceTier::Standard, tier)])
    }

    #[test]
    fn every_token_is_at_its_dearest_and_the_sum_rounded_up() {
        use Component::{CacheRead, Input, Output, Reasoning};
        let most = |price: &Price, held| ceiling(price, ServiceTier::Standard, &held);
        let plain = standard(&[(Input, 3_000), (CacheRead, 300), (Output, 15_000)], &[]);
        assert_eq!(most(&plain, held(100, 100, 10)), Ok(300 + 150));
        assert_eq!(most(&plain, held(100, 40, 10)), Ok(120 + 18 + 150));
        // 3.3 nano-USD.
        assert_eq!(most(&plain, held(2, 1, 0)), Ok(4));
        assert_eq!(most(&plain, held(0, 0, 0)), Ok(0));
        let thinks = standard(&[(Input, 1), (Output, 1_000), (Reasoning, 9_000)], &[]);
        assert_eq!(most(&thinks, held(0, 0, 10)), Ok(90));
        let odd = standard(&[(Input, 1_000), (CacheRead, 2_000)], &[]);
        assert_eq!(most(&odd, held(10, 5, 0)), Ok(20));
        let long: &[(i64, &[(Component, i64)])] = &[(100, &[(Input, 5_000)])];
        let dearer = standard(&[(Input, 1_000)], long);
        assert_eq!(most(&dearer, held(100, 100, 0)), Ok(100));
        assert_eq!(most(&dearer, held(101, 101, 0)), Ok(505));
        let long: &[(i64, &[(Component, i64)])] = &[(100, &[(Input, 10)])];
        let cheaper = standard(&[(Input, 1_000)], long);
        assert_eq!(most(&cheaper, held(101, 101, 0)), Ok(100));
    }

    #[test]
    fn without_a_rate_there_is_no_ceiling() {
        let no_output = standard(&[(Component::Input, 1)], &[]);
        let ask = |held| ceiling(&no_output, ServiceTier::Standard, &held);
        assert_eq!(
            ask(held(1, 1, 1)),
            Err(Reason::NoRate(Component::Output).into())
        );
        assert_eq!(ask(held(1, 1, 0)), Ok(1));
    }

    #[test]
    fn the_largest_estimate_has_the_ceiling_of_a_line() {
        let dear = standard(
            &[
                (Component::Input, money::MAX_UNIT_PRICE),
                (Component::Output, money::MAX_UNIT_PRICE),
            ],
            &[],
        );
        let all = held(bounds::MAX_TOKENS, bounds::MAX_TOKENS, bounds::MAX_TOKENS);
        assert_eq!(
            ceiling(&dear, ServiceTier::Standard, &all),
            Ok(money::MAX_LINE_COST_NANO_USD)
        );
    }

    /// It is no more than it has to be: a call that uses all of its estimate costs just that.
    #[test]
    fn a_call_that_uses_its_whole_estimate_costs_its_ceiling() {
        for price in shipped().unwrap() {
            let counts = TokenCounts {
                input: 600_001,
                cache_read: 400_002,
                output: 5_003,
                ..TokenCounts::default()
            };
            let line = Line {
                model: price.model.clone(),
                counts,
                tool_requests: BTreeMap::new(),
            };
            let held = held(counts.prompt(), counts.input, counts.output);
            let most = ceiling(&price, ServiceTier::Standard, &held);
            let cost = quote(&price, &line, ServiceTier::Standard).unwrap();
            let over = most.unwrap() - cost.cost_nano_usd;
            assert!((0..=1).contains(&over), "{} over {over}", price.model);
        }
    }

    const TIERS: [ServiceTier; 3] = [
        ServiceTier::Standard,
        ServiceTier::Batch,
        ServiceTier::Priority,
    ];

    fn any_rates() -> impl Strategy<Value = Rates> {
        let components = vec![
            Component::Input,
            Component::CacheRead,
            Component::Output,
            Component::Reasoning,
        ];
        let one = (proptest::sample::select(components), 0_i64..20_000_000);
        proptest::collection::vec(one, 0..6).prop_map(|list| rates(&list))
    }

    fn any_tier() -> impl Strategy<Value = TierRates> {
        let long = proptest::collection::btree_map(1_i64..2_000, any_rates(), 0..3);
        (any_rates(), long).prop_map(|(base, long)| TierRates {
            base,
            long_context: long
                .into_iter()
                .map(|(above_tokens, rates)| LongContext {
                    above_tokens,
                    rates,
                })
                .collect(),
        })
    }

    fn any_price() -> impl Strategy<Value = Price> {
        let shipped = shipped().unwrap();
        let made =
            proptest::collection::btree_map(proptest::sample::select(&TIERS[..]), any_tier(), 1..3);
        prop_oneof![made.prop_map(price), proptest::sample::select(shipped),]
    }

    /// Some of an amount, 0 to 1,000 in 1,000; all or nothing of it where that is beyond.
    fn share(whole: i64, permille: i64) -> i64 {
        (i128::from(whole) * i128::from(permille.clamp(0, 1_000)) / 1_000)
            .try_into()
            .unwrap_or(whole)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        /// A line within what was estimated never costs more than what was held for it.
        #[test]
        fn no_line_within_its_estimate_costs_more(
            price in any_price(),
            tier in proptest::sample::select(&TIERS[..]),
            scale in proptest::sample::select(vec![10_i64, 3_000, 1_000_000, bounds::MAX_TOKENS]),
            sizes in (0_i64..=1_000, -200_i64..1_200, 0_i64..=1_000),
            used in (-200_i64..1_200, -200_i64..1_200, -200_i64..1_200, -200_i64..1_200),
        ) {
            let input = share(scale, sizes.0);
            let held = held(input, share(input, sizes.1), share(scale, sizes.2));
            let uncached = share(held.uncached_input, used.0);
            let output = share(held.output, used.2);
            let counts = TokenCounts {
                input: uncached,
                cache_read: share(held.input - uncached, used.1),
                output,
                reasoning: share(output, used.3),
                ..TokenCounts::default()
            };
            let line = Line { model: "m".into(), counts, tool_requests: BTreeMap::new() };
            let most = ceiling(&price, tier, &held);
            if let (Ok(most), Ok(priced)) = (most, quote(&price, &line, tier)) {
                prop_assert!(priced.cost_nano_usd <= most, "{priced:?} of {counts:?}");
            }
        }
    }
}
