//! Service tiers as actually served (R5): the provider's own word and one normalised value.

use serde::{Deserialize, Serialize};

/// The normalised service tier. It selects prices; the provider's own word is kept beside it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum ServiceTier {
    /// On demand, the default; also what `default`, `on_demand` and `auto` mean when served.
    #[default]
    Standard,
    /// Asynchronous batch processing.
    Batch,
    /// Paid priority processing.
    Priority,
    /// Cheaper, slower processing.
    Flex,
    /// A faster, dearer mode (`fast`, `ultrafast`).
    Fast,
    /// Capacity that is paid for apart from tokens (`scale`, `provisioned_throughput`).
    Provisioned,
    /// A tier this version does not know; priced as standard.
    Other,
}

impl ServiceTier {
    /// Every tier, in the order of the contract's enum.
    pub const ALL: [Self; 7] = [
        Self::Standard,
        Self::Batch,
        Self::Priority,
        Self::Flex,
        Self::Fast,
        Self::Provisioned,
        Self::Other,
    ];

    /// The name in ledgers and price files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Batch => "batch",
            Self::Priority => "priority",
            Self::Flex => "flex",
            Self::Fast => "fast",
            Self::Provisioned => "provisioned",
            Self::Other => "other",
        }
    }

    /// Reads a provider's own word for the tier it served. OpenAI's (and Azure's) `fast` is another
    /// word for `priority`; elsewhere it is a mode of its own.
    pub fn served(provider: &str, word: &str) -> Self {
        match (provider, Self::from_provider(word)) {
            ("openai" | "azure.ai.openai", Self::Fast) if word.eq_ignore_ascii_case("fast") => {
                Self::Priority
            }
            (_, tier) => tier,
        }
    }

    /// Reads a provider's own word, case and separators aside. Empty means standard.
    pub fn from_provider(word: &str) -> Self {
        let word = word.to_ascii_lowercase().replace('-', "_");
        match word.strip_prefix("on_demand_").unwrap_or(&word) {
            "" | "standard" | "default" | "auto" | "on_demand" | "standard_only" => Self::Standard,
            "batch" | "batches" => Self::Batch,
            "priority" | "performance" => Self::Priority,
            "flex" => Self::Flex,
            "fast" | "ultrafast" => Self::Fast,
            "scale" | "provisioned" | "provisioned_throughput" | "reserved" => Self::Provisioned,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        for tier in ServiceTier::ALL {
            if tier != ServiceTier::Other {
                assert_eq!(ServiceTier::from_provider(tier.as_str()), tier);
            }
        }
        assert_eq!(
            ServiceTier::from_provider("ON_DEMAND"),
            ServiceTier::Standard
        );
        assert_eq!(
            ServiceTier::from_provider("ON_DEMAND_PRIORITY"),
            ServiceTier::Priority
        );
        assert_eq!(ServiceTier::from_provider("tomorrow"), ServiceTier::Other);
        assert_eq!(ServiceTier::served("openai", "fast"), ServiceTier::Priority);
        assert_eq!(
            ServiceTier::served("openai", "ultrafast"),
            ServiceTier::Fast
        );
        assert_eq!(ServiceTier::served("anthropic", "fast"), ServiceTier::Fast);
    }
}
