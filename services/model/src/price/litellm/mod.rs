//! Import of the `model_prices_and_context_window.json` format of litellm.
//!
//! Every entry either becomes a price or is listed with the reason why not, and so is every price
//! field that has no counterpart here. `docs/pricing.md` has the mapping as a table. Numbers are
//! read from their own text, never through a float.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{Component, LongContext, Price, Rates, TierRates};
use crate::bounds;
use crate::money::{self, ParseError};
use crate::tier::ServiceTier;
use field::{Field, Rate};

mod field;
mod names;

/// Source of every imported price, before the key.
const SOURCE: &str = "litellm model_prices_and_context_window.json";
/// Providers that bill the long-context rate from the threshold on, not above it.
const INCLUSIVE: [&str; 1] = ["xai"];

type Entry<'a> = BTreeMap<String, &'a RawValue>;

/// What an import found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Import {
    /// The prices, at most one per provider and model.
    pub prices: Vec<Price>,
    /// What did not become (part of) a price. Entries without a price are those whose `field` is
    /// empty: there are `read − prices.len()` of them.
    pub unmapped: Vec<Unmapped>,
    /// How many entries were read.
    pub read: usize,
}

/// One entry, or one price field of an entry, that was not imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmapped {
    /// The entry's key as in the file.
    pub key: String,
    /// The price field; empty when the whole entry has no price.
    pub field: String,
    /// Why.
    pub reason: Reason,
}

/// Why an entry or a field was not imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Reason {
    /// Documentation of the format or rules for names, or without a provider.
    #[error("not a model")]
    NotAModel,
    /// No field of the entry is a token price.
    #[error("no token price")]
    NoTokenPrice,
    /// Token prices for other service tiers only.
    #[error("no token price in the standard tier")]
    NoStandardPrice,
    /// Token rates of zero beside a charge in a unit that lines do not count: not a free model.
    #[error("token prices of zero beside a charge in another unit")]
    ChargedElsewhere,
    /// A token price of the entry could not be read. The whole entry is left out, because another
    /// rate would stand in for the missing one.
    #[error("a token price of the entry could not be read")]
    Refused,
    /// Another key gives the same provider and model with the same prices.
    #[error("same provider and model as another key, same prices")]
    Duplicate,
    /// Another key gives the same provider and model with other prices.
    #[error("same provider and model as another key, other prices")]
    Conflict,
    /// The value is not a number.
    #[error("not a number")]
    NotANumber,
    /// The value is negative.
    #[error("negative")]
    Negative,
    /// The value is not a whole number of pico-USD.
    #[error("finer than one pico-USD")]
    TooFine,
    /// The value is above the bound of its kind.
    #[error("too large")]
    TooLarge,
    /// Per second of audio or video, or of reserved capacity.
    #[error("per second")]
    PerSecond,
    /// Per character.
    #[error("per character")]
    PerCharacter,
    /// Per image or pixel.
    #[error("per image or pixel")]
    PerImage,
    /// Per page or document credit.
    #[error("per page or credit")]
    PerPage,
    /// Per query, request, message or unit of another kind.
    #[error("per request or other unit")]
    PerRequest,
    /// Per token of a kind that usage lines do not tell apart.
    #[error("tokens that lines do not tell apart")]
    UncountedTokens,
    /// Databricks units beside the same price in USD.
    #[error("databricks units")]
    Dbu,
    /// Per gigabyte and day.
    #[error("storage")]
    Storage,
    /// A service tier that providers do not report in usage.
    #[error("unknown service tier")]
    UnknownTier,
    /// A price that depends on the time of day.
    #[error("depends on the time of day")]
    TimeOfDay,
    /// A multiplier for the region that served the request.
    #[error("regional multiplier")]
    RegionMultiplier,
    /// A number of free requests or images shared beyond one line.
    #[error("free allowance")]
    FreeAllowance,
    /// A web search fee of a context size other than medium that differs from it.
    #[error("web search fee of another context size")]
    SearchSize,
}

impl From<ParseError> for Reason {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::NotANumber => Self::NotANumber,
            ParseError::Negative => Self::Negative,
            ParseError::TooFine => Self::TooFine,
            ParseError::TooLarge => Self::TooLarge,
        }
    }
}

/// The text is not such a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a price file of litellm: {0}")]
pub struct Error(String);

/// Imports a file; its prices are in force always ([`bounds::MIN_TIME_US`]).
pub fn read(json: &str) -> Result<Import, Error> {
    read_at(json, bounds::MIN_TIME_US)
}

/// Imports a file; its prices are in force from `effective_from_us` (microseconds since the
/// Unix epoch) on.
pub fn read_at(json: &str, effective_from_us: i64) -> Result<Import, Error> {
    let file: BTreeMap<String, &RawValue> =
        serde_json::from_str(json).map_err(|error| Error(error.to_string()))?;
    let mut import = Import {
        read: file.len(),
        ..Default::default()
    };
    // (provider, model) → key and price. Keys come in ascending order.
    let mut kept: BTreeMap<(String, String), (String, Price)> = BTreeMap::new();
    for (key, raw) in file {
        let (price, fields) = convert(&key, raw, effective_from_us);
        import.unmapped.extend(fields);
        match price {
            Ok(price) => keep(key, price, &mut kept, &mut import.unmapped),
            Err(reason) => import.unmapped.push(entry(key, reason)),
        }
    }
    import.prices = kept.into_values().map(|(_, price)| price).collect();
    Ok(import)
}

/// Of two keys for one model, the one written without litellm's routing prefix stays, else the
/// one that comes first.
fn keep(
    key: String,
    price: Price,
    kept: &mut BTreeMap<(String, String), (String, Price)>,
    unmapped: &mut Vec<Unmapped>,
) {
    let name = (price.provider.clone(), price.model.clone());
    let Some((old_key, old)) = kept.get(&name) else {
        kept.insert(name, (key, price));
        return;
    };
    let same = old.tiers == price.tiers && old.fees == price.fees;
    let reason = if same {
        Reason::Duplicate
    } else {
        Reason::Conflict
    };
    if key == price.model && *old_key != old.model {
        unmapped.push(entry(old_key.clone(), reason));
        kept.insert(name, (key, price));
    } else {
        unmapped.push(entry(key, reason));
    }
}

fn entry(key: String, reason: Reason) -> Unmapped {
    Unmapped {
        key,
        field: String::new(),
        reason,
    }
}

fn convert(key: &str, raw: &RawValue, from_us: i64) -> (Result<Price, Reason>, Vec<Unmapped>) {
    if key == "sample_spec" || key == "fallback_generalizations" {
        return (Err(Reason::NotAModel), Vec::new());
    }
    let Ok(fields) = serde_json::from_str::<Entry<'_>>(raw.get()) else {
        return (Err(Reason::NotAModel), Vec::new());
    };
    let provider = fields.get("litellm_provider").and_then(|raw| text(raw));
    let Some(provider) = provider else {
        return (Err(Reason::NotAModel), Vec::new());
    };
    let mut build = Build {
        key,
        inclusive: INCLUSIVE.contains(&provider.as_str()),
        ..Default::default()
    };
    for (name, raw) in &fields {
        if raw.get() != "null" {
            build.field(name, raw, &fields);
        }
    }
    let price = build.finish(&provider, from_us);
    (price, build.unmapped)
}

/// One entry on its way to a price.
#[derive(Default)]
struct Build<'a> {
    key: &'a str,
    inclusive: bool,
    /// Tier → threshold (0 for the base) → rates.
    tiers: BTreeMap<ServiceTier, BTreeMap<i64, Rates>>,
    fees: BTreeMap<String, i64>,
    /// Multiplier of the fast mode, in millionths.
    fast: Option<i64>,
    unmapped: Vec<Unmapped>,
    refused: bool,
    charged_elsewhere: bool,
}

impl Build<'_> {
    fn field(&mut self, name: &str, raw: &RawValue, fields: &Entry<'_>) {
        match field::classify(name) {
            Field::Other => {}
            Field::Rate(rate) => self.rate(name, rate, raw),
            Field::CacheHit => {
                if !fields.contains_key("cache_read_input_token_cost") {
                    let rate = Rate {
                        component: Component::CacheRead,
                        above: 0,
                        tier: ServiceTier::Standard,
                    };
                    self.rate(name, rate, raw);
                }
            }
            Field::Fee { tool, digits } => self.fee(name, tool, raw, 12 - digits),
            Field::SearchFees => self.search_fees(name, raw),
            Field::Tiered => self.tiered(name, raw),
            Field::ProviderSpecific => self.provider_specific(name, raw),
            Field::Unmapped(reason) => {
                self.charged_elsewhere |= number(raw, 12) != Ok(0)
                    && !matches!(reason, Reason::RegionMultiplier | Reason::FreeAllowance);
                self.list(name, reason);
            }
        }
    }

    fn list(&mut self, field: &str, reason: Reason) {
        self.unmapped.push(Unmapped {
            key: self.key.to_owned(),
            field: field.to_owned(),
            reason,
        });
    }

    fn rate(&mut self, name: &str, rate: Rate, raw: &RawValue) {
        let pico = number(raw, 12).map_err(Reason::from);
        match pico {
            Ok(pico) if pico <= money::MAX_UNIT_PRICE => {
                let inclusive = rate.above > 0 && self.inclusive;
                self.tiers
                    .entry(rate.tier)
                    .or_default()
                    .entry(rate.above - i64::from(inclusive))
                    .or_default()
                    .set(rate.component, Some(pico));
            }
            Ok(_) => self.refuse(name, Reason::TooLarge),
            Err(reason) => self.refuse(name, reason),
        }
    }

    fn refuse(&mut self, name: &str, reason: Reason) {
        self.refused = true;
        self.list(name, reason);
    }

    fn fee(&mut self, name: &str, tool: &str, raw: &RawValue, scale: i32) {
        match number(raw, scale) {
            Ok(pico) => {
                self.fees.insert(tool.to_owned(), pico);
            }
            Err(error) => self.list(name, error.into()),
        }
    }

    /// The fee is that of the medium context size, the providers' default.
    fn search_fees(&mut self, name: &str, raw: &RawValue) {
        let Ok(sizes) = serde_json::from_str::<Entry<'_>>(raw.get()) else {
            self.list(name, Reason::NotANumber);
            return;
        };
        let Some(medium) = sizes.get("search_context_size_medium") else {
            self.list(name, Reason::SearchSize);
            return;
        };
        self.fee(name, "web_search", medium, 12);
        let medium = number(medium, 12);
        for (size, raw) in &sizes {
            if number(raw, 12) != medium {
                self.list(&format!("{name}.{size}"), Reason::SearchSize);
            }
        }
    }

    /// `[{"range": [0, 32000], …rates}, …]`: the first range is the base, the start of each later
    /// one a threshold. A cache rate that a range leaves out is that range's input rate.
    fn tiered(&mut self, name: &str, raw: &RawValue) {
        let Ok(ranges) = serde_json::from_str::<Vec<Entry<'_>>>(raw.get()) else {
            self.refuse(name, Reason::NotANumber);
            return;
        };
        for (index, range) in ranges.iter().enumerate() {
            let path = |field: &str| format!("{name}[{index}].{field}");
            let start = range
                .get("range")
                .and_then(|raw| serde_json::from_str::<Vec<&RawValue>>(raw.get()).ok())
                .and_then(|bounds| number(bounds.first()?, 0).ok());
            let Some(above) = start else {
                self.charged_elsewhere = true;
                self.list(&path("range"), Reason::PerRequest);
                continue;
            };
            for (field, raw) in range {
                match field::classify(field) {
                    Field::Rate(rate) => self.rate(&path(field), Rate { above, ..rate }, raw),
                    Field::Unmapped(reason) => self.list(&path(field), reason),
                    _ => {}
                }
            }
        }
        let Some(standard) = self.tiers.get_mut(&ServiceTier::Standard) else {
            return;
        };
        for component in [Component::CacheRead, Component::CacheWriteUnspecified] {
            if standard
                .values()
                .all(|rates| rates.get(component).is_none())
            {
                continue;
            }
            for rates in standard.values_mut().filter(|r| r.get(component).is_none()) {
                rates.set(component, rates.get(Component::Input));
            }
        }
    }

    /// `fast` multiplies every rate of the standard tier; other numbers are regional multipliers.
    fn provider_specific(&mut self, name: &str, raw: &RawValue) {
        let Ok(entries) = serde_json::from_str::<Entry<'_>>(raw.get()) else {
            return;
        };
        for (option, raw) in &entries {
            match (option.as_str(), number(raw, 6)) {
                ("fast", Ok(millionths)) => self.fast = Some(millionths),
                (_, Err(_)) => {}
                (free, Ok(_)) if free.contains("free") => {
                    self.list(&format!("{name}.{option}"), Reason::FreeAllowance);
                }
                (_, Ok(_)) => self.list(&format!("{name}.{option}"), Reason::RegionMultiplier),
            }
        }
    }

    /// Adds the fast tier; a rate that would not be whole pico-USD refuses the entry.
    fn apply_fast(&mut self) {
        let (Some(millionths), Some(standard)) =
            (self.fast, self.tiers.get(&ServiceTier::Standard))
        else {
            return;
        };
        let mut fast = standard.clone();
        let mut exact = true;
        for rates in fast.values_mut() {
            for (component, pico) in rates.clone().iter() {
                let product = i128::from(pico) * i128::from(millionths);
                exact &= product % 1_000_000 == 0;
                rates.set(component, i64::try_from(product / 1_000_000).ok());
            }
        }
        if exact {
            self.tiers.insert(ServiceTier::Fast, fast);
        } else {
            self.refuse("provider_specific_entry.fast", Reason::TooFine);
        }
    }

    fn finish(&mut self, provider: &str, from_us: i64) -> Result<Price, Reason> {
        self.apply_fast();
        if self.refused {
            return Err(Reason::Refused);
        }
        let tiers: BTreeMap<_, _> = std::mem::take(&mut self.tiers)
            .into_iter()
            .map(|(tier, rates)| (tier, tier_rates(rates)))
            .collect();
        match every_rate_is_zero(&tiers) {
            None => return Err(Reason::NoTokenPrice),
            Some(true) if self.charged_elsewhere => return Err(Reason::ChargedElsewhere),
            Some(_) => {}
        }
        let standard = tiers.get(&ServiceTier::Standard);
        if standard.is_none_or(|rates| rates.base.is_empty()) {
            return Err(Reason::NoStandardPrice);
        }
        let price = Price {
            provider: names::provider(provider).to_owned(),
            model: names::model(self.key, provider).to_owned(),
            effective_from_us: from_us,
            version: 0,
            source: format!("{SOURCE}: {}", self.key),
            tiers,
            fees: std::mem::take(&mut self.fees),
        };
        let mut violations = Vec::new();
        price.check("", &mut violations);
        match violations.is_empty() {
            true => Ok(price),
            false => Err(Reason::Refused),
        }
    }
}

/// `None` when there is no rate at all.
fn every_rate_is_zero(tiers: &BTreeMap<ServiceTier, TierRates>) -> Option<bool> {
    let mut zero = None;
    for tier in tiers.values() {
        let long = tier.long_context.iter().map(|long| &long.rates);
        for (_, pico) in std::iter::once(&tier.base)
            .chain(long)
            .flat_map(Rates::iter)
        {
            zero = Some(zero.unwrap_or(true) && pico == 0);
        }
    }
    zero
}

fn tier_rates(mut rates: BTreeMap<i64, Rates>) -> TierRates {
    TierRates {
        base: rates.remove(&0).unwrap_or_default(),
        long_context: rates
            .into_iter()
            .map(|(above_tokens, rates)| LongContext {
                above_tokens,
                rates,
            })
            .collect(),
    }
}

/// A JSON number, or one written as text, × 10^`scale`, exactly.
fn number(raw: &RawValue, scale: i32) -> Result<i64, ParseError> {
    let quoted = text(raw);
    money::parse_scaled(quoted.as_deref().unwrap_or(raw.get()), scale)
}

/// A JSON string.
fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
