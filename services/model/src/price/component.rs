//! The components a line is priced by, and one rate for each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a rate is the price of. The names are stable: ledgers and price files keep them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Component {
    /// Uncached prompt tokens that are neither audio nor images.
    #[serde(rename = "input")]
    Input,
    /// Generated tokens that are neither reasoning, audio nor images.
    #[serde(rename = "output")]
    Output,
    /// Prompt tokens served from the provider's cache.
    #[serde(rename = "cache_read")]
    CacheRead,
    /// Cache writes without a stated time-to-live, and the base of every other cache write.
    #[serde(rename = "cache_write")]
    CacheWriteUnspecified,
    /// Cache writes kept for 5 minutes.
    #[serde(rename = "cache_write_5m")]
    CacheWrite5m,
    /// Cache writes kept for 30 minutes.
    #[serde(rename = "cache_write_30m")]
    CacheWrite30m,
    /// Cache writes kept for 1 hour.
    #[serde(rename = "cache_write_1h")]
    CacheWrite1h,
    /// Cache writes kept for 12 hours.
    #[serde(rename = "cache_write_12h")]
    CacheWrite12h,
    /// Reasoning tokens.
    #[serde(rename = "reasoning")]
    Reasoning,
    /// Uncached audio tokens of the prompt.
    #[serde(rename = "input_audio")]
    InputAudio,
    /// Generated audio tokens.
    #[serde(rename = "output_audio")]
    OutputAudio,
    /// Audio tokens of the prompt served from the cache.
    #[serde(rename = "cache_read_audio")]
    CacheReadAudio,
    /// Uncached image tokens of the prompt.
    #[serde(rename = "input_image")]
    InputImage,
    /// Generated image tokens.
    #[serde(rename = "output_image")]
    OutputImage,
}

/// How many components there are.
const COMPONENTS: usize = 14;

impl Component {
    /// Every component, in the order in which rates are written.
    pub const ALL: [Self; COMPONENTS] = [
        Self::Input,
        Self::Output,
        Self::CacheRead,
        Self::CacheWriteUnspecified,
        Self::CacheWrite5m,
        Self::CacheWrite30m,
        Self::CacheWrite1h,
        Self::CacheWrite12h,
        Self::Reasoning,
        Self::InputAudio,
        Self::OutputAudio,
        Self::CacheReadAudio,
        Self::InputImage,
        Self::OutputImage,
    ];

    /// The stable name in ledgers and price files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::CacheRead => "cache_read",
            Self::CacheWriteUnspecified => "cache_write",
            Self::CacheWrite5m => "cache_write_5m",
            Self::CacheWrite30m => "cache_write_30m",
            Self::CacheWrite1h => "cache_write_1h",
            Self::CacheWrite12h => "cache_write_12h",
            Self::Reasoning => "reasoning",
            Self::InputAudio => "input_audio",
            Self::OutputAudio => "output_audio",
            Self::CacheReadAudio => "cache_read_audio",
            Self::InputImage => "input_image",
            Self::OutputImage => "output_image",
        }
    }

    /// The component with that stable name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == name)
    }

    /// The component whose rate stands in when a price has none for this one.
    /// Input and output have no parent: without them their tokens are unpriced.
    pub fn parent(self) -> Option<Self> {
        match self {
            Self::Input | Self::Output => None,
            Self::CacheRead | Self::CacheWriteUnspecified | Self::InputAudio | Self::InputImage => {
                Some(Self::Input)
            }
            Self::CacheWrite5m | Self::CacheWrite30m | Self::CacheWrite1h | Self::CacheWrite12h => {
                Some(Self::CacheWriteUnspecified)
            }
            Self::CacheReadAudio => Some(Self::CacheRead),
            Self::Reasoning | Self::OutputAudio | Self::OutputImage => Some(Self::Output),
        }
    }
}

/// One rate per component, in pico-USD per token, 0 to [`crate::money::MAX_UNIT_PRICE`].
/// An absent rate is not zero: it falls back as [`super::quote()`] says, or leaves the line unpriced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<Component, i64>", into = "BTreeMap<Component, i64>")]
pub struct Rates([Option<i64>; COMPONENTS]);

impl Rates {
    /// The rate of one component in pico-USD per token.
    pub fn get(&self, component: Component) -> Option<i64> {
        self.0[component as usize]
    }

    /// Sets or removes the rate of one component, in pico-USD per token.
    pub fn set(&mut self, component: Component, pico: Option<i64>) {
        self.0[component as usize] = pico;
    }

    /// The rates that are present, in the order of [`Component::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Component, i64)> + '_ {
        Component::ALL
            .into_iter()
            .zip(self.0)
            .filter_map(|(component, pico)| Some((component, pico?)))
    }

    /// Whether no rate is present.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

impl FromIterator<(Component, i64)> for Rates {
    fn from_iter<I: IntoIterator<Item = (Component, i64)>>(rates: I) -> Self {
        let mut out = Self::default();
        for (component, pico) in rates {
            out.set(component, Some(pico));
        }
        out
    }
}

impl From<BTreeMap<Component, i64>> for Rates {
    fn from(rates: BTreeMap<Component, i64>) -> Self {
        rates.into_iter().collect()
    }
}

impl From<Rates> for BTreeMap<Component, i64> {
    fn from(rates: Rates) -> Self {
        rates.iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_serde_writes_and_indexes_are_dense() {
        for (index, component) in Component::ALL.into_iter().enumerate() {
            assert_eq!(component as usize, index);
            assert_eq!(Component::from_name(component.as_str()), Some(component));
            let json = serde_json::to_string(&component).unwrap();
            assert_eq!(json, format!("\"{}\"", component.as_str()));
        }
    }

    #[test]
    fn rates_survive_json() {
        let rates: Rates = [(Component::Input, 3), (Component::CacheWrite1h, 0)]
            .into_iter()
            .collect();
        let json = serde_json::to_string(&rates).unwrap();
        assert_eq!(json, r#"{"input":3,"cache_write_1h":0}"#);
        assert_eq!(serde_json::from_str::<Rates>(&json).unwrap(), rates);
    }
}
