use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::counts::CacheWrites;
use crate::price::LongContext;

use Component as C;
use ServiceTier as T;

fn rates(list: &[(Component, i64)]) -> Rates {
    list.iter().copied().collect()
}

fn tier(base: &[(Component, i64)], long: &[(i64, &[(Component, i64)])]) -> TierRates {
    let long_context = long
        .iter()
        .map(|(above_tokens, list)| LongContext {
            above_tokens: *above_tokens,
            rates: rates(list),
        })
        .collect();
    TierRates {
        base: rates(base),
        long_context,
    }
}

fn price(tiers: impl IntoIterator<Item = (ServiceTier, TierRates)>) -> Price {
    Price {
        provider: "p".into(),
        model: "m".into(),
        effective_from_us: bounds::MIN_TIME_US,
        version: 7,
        source: String::new(),
        tiers: tiers.into_iter().collect(),
        fees: BTreeMap::from([("web_search".into(), 10_000_000_000)]),
    }
}

fn line(counts: TokenCounts) -> Line {
    Line {
        model: "m".into(),
        counts,
        tool_requests: BTreeMap::new(),
    }
}

fn cost(price: &Price, counts: TokenCounts, tier: ServiceTier) -> Result<i64, Reason> {
    quote(price, &line(counts), tier)
        .map(|quote| quote.cost_nano_usd)
        .map_err(|unpriced| unpriced.reason)
}

fn input(input: i64) -> TokenCounts {
    TokenCounts {
        input,
        ..Default::default()
    }
}

fn output(output: i64, reasoning: i64) -> TokenCounts {
    TokenCounts {
        output,
        reasoning,
        ..Default::default()
    }
}

#[test]
fn a_line_is_rounded_once() {
    let price = price([(T::Standard, tier(&[(C::Input, 250), (C::Output, 250)], &[]))]);
    // 500 + 1,000 pico are 1.5 nano, to even 2; rounded apart they would be 0 + 1.
    let counts = TokenCounts {
        input: 2,
        ..output(4, 0)
    };
    assert_eq!(cost(&price, counts, T::Standard), Ok(2));
    let half = TokenCounts {
        input: 1,
        ..output(1, 0)
    };
    assert_eq!(cost(&price, half, T::Standard), Ok(0));
}

#[test]
fn cache_savings_are_gross_and_writes_are_apart() {
    let price = price([(
        T::Standard,
        tier(
            &[
                (C::Input, 3_000),
                (C::CacheRead, 300),
                (C::CacheWriteUnspecified, 3_750),
                (C::CacheWrite1h, 6_000),
            ],
            &[],
        ),
    )]);
    let counts = TokenCounts {
        cache_read: 1_000,
        cache_write: CacheWrites {
            ttl_5m: 10,
            ttl_1h: 100,
            ..Default::default()
        },
        ..Default::default()
    };
    let got = quote(&price, &line(counts), T::Standard).unwrap();
    assert_eq!(
        got,
        Quote {
            cost_nano_usd: 300 + 600 + 38, // 37.5 to even
            cache_saving_nano_usd: 2_700,
            cache_write_extra_nano_usd: 308, // 7.5 + 300 to even
            price_version: 7,
        }
    );
}

#[test]
fn cached_audio_is_compared_with_audio() {
    let rates = [
        (C::Input, 2_000),
        (C::InputAudio, 9_000),
        (C::CacheRead, 1_000),
    ];
    let price = price([(T::Standard, tier(&rates, &[]))]);
    let counts = TokenCounts {
        cache_read: 5,
        cache_read_audio: 2,
        ..Default::default()
    };
    let got = quote(&price, &line(counts), T::Standard).unwrap();
    assert_eq!(
        (got.cost_nano_usd, got.cache_saving_nano_usd),
        (5, 3 + 2 * 8)
    );
}

#[test]
fn a_prompt_strictly_above_the_threshold_reprices_the_whole_line() {
    let price = price([(
        T::Standard,
        tier(
            &[(C::Input, 1_000), (C::CacheRead, 500), (C::Output, 1_000)],
            &[
                (100, &[(C::Input, 2_000), (C::CacheRead, 700)]),
                (200, &[(C::Input, 3_000), (C::Output, 5_000)]),
            ],
        ),
    )]);
    assert_eq!(cost(&price, input(100), T::Standard), Ok(100));
    assert_eq!(cost(&price, input(101), T::Standard), Ok(202));
    let long = TokenCounts {
        output: 1,
        ..input(201)
    };
    assert_eq!(cost(&price, long, T::Standard), Ok(608));
    // Cache reads are part of the prompt. Where the highest threshold has no rate, the base has
    // it, not the lower threshold.
    let cached = TokenCounts {
        cache_read: 202,
        ..Default::default()
    };
    assert_eq!(cost(&price, cached, T::Standard), Ok(101));
}

#[test]
fn rates_are_looked_for_from_the_most_specific_place() {
    let standard = tier(
        &[
            (C::Input, 4_000),
            (C::CacheRead, 400),
            (C::Output, 8_000),
            (C::Reasoning, 9_000),
        ],
        &[(100, &[(C::Input, 6_000), (C::Output, 12_000)])],
    );
    let price = price([
        (T::Standard, standard),
        (
            T::Batch,
            tier(&[(C::Input, 2_000), (C::Output, 4_000)], &[]),
        ),
        (
            T::Priority,
            tier(&[(C::Input, 8_000)], &[(100, &[(C::Input, 16_000)])]),
        ),
    ]);
    // The tier's own rate, and the standard one for what it lacks before the tier's parent.
    assert_eq!(cost(&price, input(1), T::Batch), Ok(2));
    let read = TokenCounts {
        cache_read: 10,
        ..Default::default()
    };
    assert_eq!(cost(&price, read, T::Batch), Ok(4));
    // A long prompt takes the tier's threshold, else standard's before the tier's base.
    assert_eq!(cost(&price, input(101), T::Priority), Ok(101 * 16));
    assert_eq!(cost(&price, input(101), T::Batch), Ok(101 * 6));
    // Reasoning is output unless its place has a rate of its own.
    assert_eq!(cost(&price, output(10, 10), T::Standard), Ok(90));
    assert_eq!(cost(&price, output(10, 10), T::Batch), Ok(40));
    let long = TokenCounts {
        output: 1,
        reasoning: 1,
        ..input(101)
    };
    assert_eq!(cost(&price, long, T::Standard), Ok(606 + 12));
    // Flex has no rates here, fast takes priority's, the rest are standard.
    assert_eq!(cost(&price, input(1), T::Fast), Ok(8));
    for tier in [T::Flex, T::Provisioned, T::Other] {
        assert_eq!(cost(&price, input(1), tier), Ok(4));
    }
}

#[test]
fn nothing_is_zero_by_absence() {
    let only_output = price([(T::Standard, tier(&[(C::Output, 1_000)], &[]))]);
    assert_eq!(cost(&only_output, output(5, 0), T::Standard), Ok(5));
    assert_eq!(
        cost(&only_output, input(1), T::Standard),
        Err(Reason::NoRate(C::Input))
    );
    let read = TokenCounts {
        cache_read: 1,
        ..Default::default()
    };
    assert_eq!(
        cost(&only_output, read, T::Standard),
        Err(Reason::NoRate(C::CacheRead))
    );
    let only_input = price([(T::Standard, tier(&[(C::Input, 0)], &[]))]);
    assert_eq!(cost(&only_input, input(1), T::Standard), Ok(0));
    assert_eq!(
        cost(&only_input, output(1, 0), T::Standard),
        Err(Reason::NoRate(C::Output))
    );
}

#[test]
fn a_tool_without_a_fee_has_none() {
    let price = price([(T::Standard, tier(&[(C::Input, 1_000)], &[]))]);
    let mut line = line(input(1));
    line.tool_requests = BTreeMap::from([("web_search".into(), 3), ("web_fetch".into(), 5)]);
    let got = quote(&price, &line, T::Standard).unwrap();
    assert_eq!(got.cost_nano_usd, 1 + 3 * 10_000_000);
    line.tool_requests.insert("web_search".into(), -1);
    assert_eq!(
        quote(&price, &line, T::Standard),
        Err(Unpriced {
            reason: Reason::InvalidCounts
        })
    );
}

#[test]
fn what_cannot_be_priced_is_named() {
    let dear = money::MAX_UNIT_PRICE;
    let price = price([(
        T::Standard,
        tier(&[(C::Input, dear), (C::Output, dear)], &[]),
    )]);
    let overlap = TokenCounts {
        output_audio: 6,
        ..output(10, 5)
    };
    assert_eq!(
        cost(&price, overlap, T::Standard),
        Err(Reason::OverlappingOutput)
    );
    assert_eq!(
        cost(&price, input(-1), T::Standard),
        Err(Reason::InvalidCounts)
    );
    assert_eq!(
        cost(&price, input(i64::MAX), T::Standard),
        Err(Reason::InvalidCounts)
    );
    let audio = TokenCounts {
        input_audio: 2,
        ..input(1)
    };
    assert_eq!(cost(&price, audio, T::Standard), Err(Reason::InvalidCounts));
    let limit = money::MAX_LINE_COST_NANO_USD;
    assert_eq!(cost(&price, input(10_000_000), T::Standard), Ok(limit));
    assert_eq!(
        cost(&price, input(10_000_001), T::Standard),
        Err(Reason::TooLarge)
    );
}

/// Every component priced in standard; counts that hold together.
fn any_case() -> impl Strategy<Value = (Vec<i64>, Vec<i64>, i64)> {
    (
        proptest::collection::vec(0..=1_000_000_000_i64, 14),
        proptest::collection::vec(0..=100_000_i64, 14),
        0..=1_000_i64,
    )
}

proptest! {
    /// A naive sum of the disjoint parts, rounded by comparing with both neighbours.
    #[test]
    fn quote_equals_an_independent_sum((rate, part, requests) in any_case()) {
        let all: Vec<_> = Component::ALL.into_iter().zip(rate.iter().copied()).collect();
        let price = price([(T::Standard, tier(&all, &[]))]);
        let counts = TokenCounts {
            input: part[0] + part[9] + part[12],
            cache_read: part[2] + part[11],
            cache_write: CacheWrites {
                unspecified: part[3],
                ttl_5m: part[4],
                ttl_30m: part[5],
                ttl_1h: part[6],
                ttl_12h: part[7],
            },
            output: part[1] + part[8] + part[10] + part[13],
            reasoning: part[8],
            input_audio: part[9],
            input_image: part[12],
            tool_use_prompt: 0,
            cache_read_audio: part[11],
            output_audio: part[10],
            output_image: part[13],
        };
        let mut line = line(counts);
        line.tool_requests.insert("web_search".into(), requests);
        let got = quote(&price, &line, T::Standard).unwrap();
        let mut pico = i128::from(requests) * 10_000_000_000;
        for index in 0..14 {
            pico += i128::from(rate[index]) * i128::from(part[index]);
        }
        let mut nano = pico / 1_000;
        let rest = pico % 1_000;
        if rest > 500 || (rest == 500 && nano % 2 != 0) {
            nano += 1;
        }
        prop_assert_eq!(i128::from(got.cost_nano_usd), nano);
    }

    /// Splitting a count over two lines never changes the sum by more than the rounding.
    #[test]
    fn splitting_a_line_changes_nothing_but_the_rounding(a in 0..1_000_000_i64, b in 0..1_000_000_i64, rate in 0..1_000_000_i64) {
        let price = price([(T::Standard, tier(&[(C::Input, rate)], &[]))]);
        let one = cost(&price, input(a), T::Standard).unwrap();
        let two = cost(&price, input(b), T::Standard).unwrap();
        let both = cost(&price, input(a + b), T::Standard).unwrap();
        prop_assert!((one + two - both).abs() <= 1);
    }
}
