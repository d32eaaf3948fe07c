//! The prices that ship with the program, from `data/shipped_prices.toml`.

use super::{Price, file};

/// The shipped price file, as text: readable, commented, and in the format of [`mod@file`].
pub const SHIPPED_TOML: &str = include_str!("../../data/shipped_prices.toml");

/// Parses the shipped prices. A test keeps the file sound, so an error cannot occur in a build
/// that passed it.
pub fn shipped() -> Result<Vec<Price>, file::Error> {
    file::parse(SHIPPED_TOML)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::MIN_TIME_US;
    use crate::price::{Book, Component};
    use crate::tier::ServiceTier;

    #[test]
    fn the_shipped_file_is_sound_and_covers_the_current_families() {
        let prices = shipped().unwrap();
        let book = Book::new(prices);
        for (provider, model) in [
            ("anthropic", "claude-opus-5-5"),
            ("anthropic", "claude-sonnet-4-5-20250929"),
            ("anthropic", "claude-haiku-4-5-20251001"),
            ("anthropic", "claude-fable-5"),
            ("openai", "gpt-6-astra"),
            ("openai", "gpt-5.4-2026-03-05"),
            ("openai", "gpt-4.1-mini"),
            ("openai", "gpt-4o-2024-05-13"),
            ("openai", "o3"),
            ("gcp.gemini", "gemini-2.5-pro"),
            ("gcp.gemini", "models/gemini-2.5-flash"),
            ("gcp.gemini", "gemini-3.1-pro-preview"),
            ("gcp.vertex_ai", "gemini-2.5-flash"),
            ("gcp.vertex_ai", "gemini-2.0-flash-001"),
            ("azure.ai.openai", "gpt-5-2025-08-07"),
        ] {
            assert!(
                book.find(provider, model, MIN_TIME_US).is_some(),
                "{provider} {model}"
            );
        }
        for price in book.iter() {
            let base = &price.tiers[&ServiceTier::Standard].base;
            let name = format!("{} {}", price.provider, price.model);
            assert!(
                base.get(Component::Input) > Some(0),
                "{name} has no input rate"
            );
            assert!(
                base.get(Component::Output) > Some(0),
                "{name} has no output rate"
            );
            assert!(!price.source.is_empty(), "{name} has no source");
        }
    }

    /// Claude's published rule: 1.25 × input for 5 minutes, 2 × for an hour, half of all in batch.
    #[test]
    fn claude_cache_writes_follow_the_published_multipliers() {
        for price in shipped().unwrap() {
            if price.provider != "anthropic" {
                continue;
            }
            let standard = &price.tiers[&ServiceTier::Standard].base;
            let input = standard.get(Component::Input).unwrap();
            let write = |rates: &crate::price::Rates, c| rates.get(c).unwrap();
            assert_eq!(
                write(standard, Component::CacheWriteUnspecified) * 4,
                input * 5,
                "{}",
                price.model
            );
            assert_eq!(
                write(standard, Component::CacheWrite1h),
                input * 2,
                "{}",
                price.model
            );
            if let Some(batch) = price.tiers.get(&ServiceTier::Batch) {
                for (component, pico) in batch.base.iter() {
                    assert_eq!(pico * 2, write(standard, component), "{}", price.model);
                }
            }
        }
    }
}
