use super::*;

fn reasons(import: &Import) -> Vec<(&str, &str, Reason)> {
    let unmapped = import.unmapped.iter();
    unmapped
        .map(|u| (u.key.as_str(), u.field.as_str(), u.reason))
        .collect()
}

#[test]
fn an_entry_becomes_a_price() {
    let json = r#"{"xai/grok": {
        "litellm_provider": "xai", "max_tokens": 5, "deprecation_date": null,
        "input_cost_per_token": 3e-06, "output_cost_per_token": "1.5e-05",
        "input_cost_per_token_cache_hit": 7.5e-7,
        "input_cost_per_token_above_200k_tokens": 6e-06,
        "input_cost_per_token_batches": 1.5e-06,
        "file_search_cost_per_1k_calls": 2.5,
        "search_context_cost_per_query": {"search_context_size_low": 0.01,
            "search_context_size_medium": 0.02, "search_context_size_high": 0.02},
        "output_cost_per_second": 0.0}}"#;
    let import = read(json).unwrap();
    let price = &import.prices[0];
    assert_eq!(
        (price.provider.as_str(), price.model.as_str()),
        ("x_ai", "grok")
    );
    let standard = &price.tiers[&ServiceTier::Standard];
    let base: Vec<_> = standard.base.iter().collect();
    assert_eq!(
        base,
        [
            (Component::Input, 3_000_000),
            (Component::Output, 15_000_000),
            (Component::CacheRead, 750_000)
        ]
    );
    // xAI bills the dearer rate from 200,000 tokens on, so above 199,999.
    assert_eq!(standard.long_context[0].above_tokens, 199_999);
    let batch = &price.tiers[&ServiceTier::Batch];
    assert_eq!(batch.base.get(Component::Input), Some(1_500_000));
    assert_eq!(price.fees["web_search"], 20_000_000_000);
    assert_eq!(price.fees["file_search"], 2_500_000_000);
    assert_eq!(
        reasons(&import),
        [
            ("xai/grok", "output_cost_per_second", Reason::PerSecond),
            (
                "xai/grok",
                "search_context_cost_per_query.search_context_size_low",
                Reason::SearchSize
            ),
        ]
    );
}

#[test]
fn what_is_not_a_price_is_listed() {
    let json = r#"{
        "sample_spec": {"litellm_provider": "one of", "input_cost_per_token": 0.0},
        "a": {"litellm_provider": "openai", "input_cost_per_token": 1.6000000000000001e-06,
              "output_cost_per_token": 1e-6},
        "b": {"litellm_provider": "openai", "input_cost_per_token": 0, "output_cost_per_image": 1},
        "c": {"litellm_provider": "openai", "output_cost_per_image": 1},
        "d": {"litellm_provider": "openai", "input_cost_per_token": 0},
        "e": {"input_cost_per_token": 1e-6},
        "openai/f": {"litellm_provider": "openai", "input_cost_per_token": 1e-6},
        "f": {"litellm_provider": "openai", "input_cost_per_token": 2e-6},
        "g": 5}"#;
    let import = read(json).unwrap();
    let models: Vec<_> = import.prices.iter().map(|p| p.model.as_str()).collect();
    assert_eq!(models, ["d", "f"]);
    assert_eq!(
        import.prices[1].tiers[&ServiceTier::Standard]
            .base
            .get(Component::Input),
        Some(2_000_000)
    );
    assert_eq!(
        reasons(&import),
        [
            ("a", "input_cost_per_token", Reason::TooFine),
            ("a", "", Reason::Refused),
            ("b", "output_cost_per_image", Reason::PerImage),
            ("b", "", Reason::ChargedElsewhere),
            ("c", "output_cost_per_image", Reason::PerImage),
            ("c", "", Reason::NoTokenPrice),
            ("e", "", Reason::NotAModel),
            ("g", "", Reason::NotAModel),
            ("openai/f", "", Reason::Conflict),
            ("sample_spec", "", Reason::NotAModel),
        ]
    );
}

#[test]
fn ranges_and_the_fast_mode_become_thresholds_and_a_tier() {
    let json = r#"{
        "dashscope/q": {"litellm_provider": "dashscope", "tiered_pricing": [
            {"range": [0, 32000.0], "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6,
             "cache_read_input_token_cost": 1e-7},
            {"range": [32000.0, 128000.0], "input_cost_per_token": 3e-6,
             "output_cost_per_token": 4e-6}]},
        "claude": {"litellm_provider": "anthropic", "input_cost_per_token": 4e-6,
            "cache_read_input_token_cost": 2e-7,
            "provider_specific_entry": {"us": 1.1, "fast": 2.0, "other": "x"}}}"#;
    let import = read(json).unwrap();
    let fast = &import.prices[0].tiers[&ServiceTier::Fast].base;
    assert_eq!(fast.get(Component::Input), Some(8_000_000));
    assert_eq!(fast.get(Component::CacheRead), Some(400_000));
    let long = import.prices[1].tiers[&ServiceTier::Standard].long_context[0];
    assert_eq!(long.above_tokens, 32_000);
    assert_eq!(long.rates.get(Component::CacheRead), Some(3_000_000));
    assert_eq!(
        reasons(&import),
        [(
            "claude",
            "provider_specific_entry.us",
            Reason::RegionMultiplier
        )]
    );
}

#[test]
fn what_is_not_json_is_an_error() {
    assert!(read("[]").is_err());
    assert!(read("{").is_err());
    assert_eq!(read("{}").unwrap(), Import::default());
}
