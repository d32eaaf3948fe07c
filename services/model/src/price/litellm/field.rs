//! What each field of a litellm entry is the price of, told from its name.

use crate::price::Component;
use crate::tier::ServiceTier;

use super::Reason;

/// What a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// Not a price.
    Other,
    /// USD per token.
    Rate(Rate),
    /// USD per token of cache reads, an older name that counts only without the newer one.
    CacheHit,
    /// USD per 10^`digits` requests to a tool.
    Fee { tool: &'static str, digits: i32 },
    /// An object of web search fees by context size.
    SearchFees,
    /// A list of rates by prompt length.
    Tiered,
    /// An object of multipliers and provider options.
    ProviderSpecific,
    /// A price that lines cannot be charged by.
    Unmapped(Reason),
}

/// Where a token rate belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) component: Component,
    /// Tokens above which it applies; 0 for the base rate.
    pub(super) above: i64,
    pub(super) tier: ServiceTier,
}

/// Field names of token rates; a longer name comes before the one it starts with.
const RATES: [(&str, Component); 11] = [
    (
        "cache_creation_input_token_cost_above_12hr",
        Component::CacheWrite12h,
    ),
    (
        "cache_creation_input_token_cost_above_1hr",
        Component::CacheWrite1h,
    ),
    (
        "cache_creation_input_token_cost",
        Component::CacheWriteUnspecified,
    ),
    (
        "cache_read_input_audio_token_cost",
        Component::CacheReadAudio,
    ),
    ("cache_read_input_token_cost", Component::CacheRead),
    ("input_cost_per_audio_token", Component::InputAudio),
    ("input_cost_per_image_token", Component::InputImage),
    ("output_cost_per_audio_token", Component::OutputAudio),
    ("output_cost_per_image_token", Component::OutputImage),
    ("output_cost_per_reasoning_token", Component::Reasoning),
    ("input_cost_per_token", Component::Input),
];

const TIERS: [(&str, ServiceTier); 5] = [
    ("", ServiceTier::Standard),
    ("_batches", ServiceTier::Batch),
    ("_priority", ServiceTier::Priority),
    ("_flex", ServiceTier::Flex),
    ("_ultrafast", ServiceTier::Fast),
];

/// Words in a field's name that tell its unit; the first that occurs decides.
const UNITS: [(&str, Reason); 20] = [
    ("uplift_multiplier", Reason::RegionMultiplier),
    ("off_peak", Reason::TimeOfDay),
    ("search_free_requests", Reason::FreeAllowance),
    ("_balanced", Reason::UnknownTier),
    ("_decisions", Reason::UnknownTier),
    ("dbu_cost", Reason::Dbu),
    ("per_second", Reason::PerSecond),
    ("per_character", Reason::PerCharacter),
    ("per_image_token", Reason::UncountedTokens),
    ("image_token_cost", Reason::UncountedTokens),
    ("audio_token_cost", Reason::UncountedTokens),
    ("video_token", Reason::UncountedTokens),
    ("citation_cost", Reason::UncountedTokens),
    ("1k_tokens", Reason::UncountedTokens),
    ("explicit_cache_read", Reason::UncountedTokens),
    ("per_image", Reason::PerImage),
    ("per_pixel", Reason::PerImage),
    ("per_page", Reason::PerPage),
    ("per_credit", Reason::PerPage),
    ("per_gb_per_day", Reason::Storage),
];

/// Tells what the field called `name` is.
pub(super) fn classify(name: &str) -> Field {
    match name {
        "input_cost_per_token_cache_hit" => return Field::CacheHit,
        "search_context_cost_per_query" => return Field::SearchFees,
        "tiered_pricing" => return Field::Tiered,
        "provider_specific_entry" => return Field::ProviderSpecific,
        "google_maps_grounding_cost_per_query" => return fee("google_maps", 0),
        "code_interpreter_cost_per_session" => return fee("code_interpreter", 0),
        "file_search_cost_per_1k_calls" => return fee("file_search", 3),
        _ => {}
    }
    let output = [("output_cost_per_token", Component::Output)];
    for (base, component) in RATES.iter().chain(&output) {
        if let Some((above, tier)) = name.strip_prefix(base).and_then(variant) {
            return Field::Rate(Rate {
                component: *component,
                above,
                tier,
            });
        }
    }
    if let Some((_, reason)) = UNITS.iter().find(|(word, _)| name.contains(word)) {
        return Field::Unmapped(*reason);
    }
    if name.contains("cost") {
        return Field::Unmapped(Reason::PerRequest);
    }
    Field::Other
}

fn fee(tool: &'static str, digits: i32) -> Field {
    Field::Fee { tool, digits }
}

/// Reads what follows a rate's name: a long-context threshold, a tier, both or neither.
fn variant(rest: &str) -> Option<(i64, ServiceTier)> {
    let (above, rest) = match rest.strip_prefix("_above_") {
        Some(rest) => {
            let (thousands, rest) = rest.split_once("k_tokens")?;
            let thousands = thousands.parse::<u32>().ok().filter(|n| *n > 0)?;
            (i64::from(thousands) * 1_000, rest)
        }
        None => (0, rest),
    };
    let (_, tier) = TIERS.iter().find(|(suffix, _)| *suffix == rest)?;
    Some((above, *tier))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(component: Component, above: i64, tier: ServiceTier) -> Field {
        Field::Rate(Rate {
            component,
            above,
            tier,
        })
    }

    #[test]
    fn names_tell_component_threshold_and_tier() {
        use Component as C;
        use ServiceTier as T;
        let cases = [
            ("input_cost_per_token", rate(C::Input, 0, T::Standard)),
            (
                "output_cost_per_token_above_272k_tokens_flex",
                rate(C::Output, 272_000, T::Flex),
            ),
            (
                "cache_creation_input_token_cost",
                rate(C::CacheWriteUnspecified, 0, T::Standard),
            ),
            (
                "cache_creation_input_token_cost_above_1hr_above_200k_tokens",
                rate(C::CacheWrite1h, 200_000, T::Standard),
            ),
            (
                "cache_creation_input_token_cost_above_12hr_above_272k_tokens_ultrafast",
                rate(C::CacheWrite12h, 272_000, T::Fast),
            ),
            (
                "cache_creation_input_token_cost_above_200k_tokens",
                rate(C::CacheWriteUnspecified, 200_000, T::Standard),
            ),
            (
                "input_cost_per_audio_token_batches",
                rate(C::InputAudio, 0, T::Batch),
            ),
            ("input_cost_per_token_cache_hit", Field::CacheHit),
            (
                "input_cost_per_token_balanced",
                Field::Unmapped(Reason::UnknownTier),
            ),
            (
                "output_cost_per_token_decisions",
                Field::Unmapped(Reason::UnknownTier),
            ),
            (
                "output_cost_per_image_1024",
                Field::Unmapped(Reason::PerImage),
            ),
            (
                "input_cost_per_image_above_128k_tokens",
                Field::Unmapped(Reason::PerImage),
            ),
            ("input_cost_per_query", Field::Unmapped(Reason::PerRequest)),
            (
                "cache_read_input_image_token_cost",
                Field::Unmapped(Reason::UncountedTokens),
            ),
            ("max_input_tokens", Field::Other),
        ];
        for (name, field) in cases {
            assert_eq!(classify(name), field, "{name}");
        }
    }
}
