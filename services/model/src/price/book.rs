//! The price book: which price is in force for a model at a time.

use std::collections::HashMap;

use super::Price;

/// Prices by provider and model. Finding by the exact name allocates nothing.
#[derive(Debug, Clone, Default)]
pub struct Book {
    /// Provider → model → prices, ascending by (effective-from, version).
    providers: HashMap<String, HashMap<String, Vec<Price>>>,
}

impl Book {
    /// A book of the given prices. Of two that take effect at the same time, the higher version
    /// wins, and of two with the same version the one given last.
    pub fn new(prices: impl IntoIterator<Item = Price>) -> Self {
        let mut providers: HashMap<String, HashMap<String, Vec<Price>>> = HashMap::new();
        for price in prices {
            providers
                .entry(price.provider.clone())
                .or_default()
                .entry(price.model.clone())
                .or_default()
                .push(price);
        }
        for list in providers.values_mut().flat_map(HashMap::values_mut) {
            list.sort_by_key(|price| (price.effective_from_us, price.version));
        }
        Self { providers }
    }

    /// The price in force at `at_us` (microseconds since the Unix epoch) for `model` of
    /// `provider`: the exact name first, then the documented aliases (see [`aliases`]), then the
    /// same for the providers that sell the same models at the same list price.
    pub fn find(&self, provider: &str, model: &str, at_us: i64) -> Option<&Price> {
        if let Some(price) = self.exact(provider, model, at_us) {
            return Some(price);
        }
        let models = aliases(provider, model);
        sellers(provider, model).find_map(|seller| {
            models
                .iter()
                .find_map(|model| self.exact(seller, model, at_us))
        })
    }

    /// Every price, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Price> {
        self.providers.values().flat_map(HashMap::values).flatten()
    }

    /// Whether the book holds a price of this provider.
    pub fn has_provider(&self, provider: &str) -> bool {
        self.providers.contains_key(provider)
    }

    /// How many prices the book holds.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether the book holds no price.
    pub fn is_empty(&self) -> bool {
        self.providers.is_empty()
    }

    /// The price in force at `at_us` under this very name, no alias.
    pub fn exact(&self, provider: &str, model: &str, at_us: i64) -> Option<&Price> {
        let list = self.providers.get(provider)?.get(model)?;
        let later = list.partition_point(|price| price.effective_from_us <= at_us);
        list.get(later.checked_sub(1)?)
    }
}

/// The providers whose price stands in, in order, the provider itself first.
///
/// Azure sells OpenAI's models at OpenAI's list price in its global deployments, and Vertex AI
/// sells Gemini at the Gemini API's; a price of their own always comes first.
fn sellers<'a>(provider: &'a str, model: &str) -> impl Iterator<Item = &'a str> {
    let gemini = model_tail(model).starts_with("gemini-");
    let others: &[&str] = match provider {
        "azure.ai.inference" => &["azure.ai.openai", "openai"],
        "azure.ai.openai" => &["openai"],
        "gcp.vertex_ai" | "gcp.gen_ai" if gemini => &["gcp.gemini"],
        _ => &[],
    };
    std::iter::once(provider).chain(others.iter().copied())
}

fn model_tail(model: &str) -> &str {
    model.strip_prefix("models/").unwrap_or(model)
}

/// The names under which a model's price may be kept, in the order in which they are tried,
/// the name itself first. They are:
/// 1. without a leading `models/` (the Gemini API's resource name);
/// 2. on `aws.bedrock`, without the trailing version `-v1:0`, or with it when it was left out;
/// 3. without the snapshot suffix: `-20250929`, `-2024-08-06`, `@20240229`, `-latest`,
///    `@latest`, `@default`, and, of Google's models, a three-digit version such as `-001`.
///
/// Nothing else is guessed. A Bedrock region (`us.`, `eu.`, `global.`) is part of the name,
/// because its price differs, and so is everything before the last `/`.
pub fn aliases(provider: &str, model: &str) -> Vec<String> {
    let mut names = vec![model.to_owned()];
    let plain = model_tail(model);
    let add = |name: String, names: &mut Vec<String>| {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    };
    add(plain.to_owned(), &mut names);
    let google = matches!(provider, "gcp.gemini" | "gcp.vertex_ai" | "gcp.gen_ai");
    let bedrock = provider == "aws.bedrock";
    let unversioned = if bedrock {
        without_bedrock_version(plain)
    } else {
        plain
    };
    add(unversioned.to_owned(), &mut names);
    // A version that was named and is not the first one is never taken for the first.
    let first_version = bedrock && (unversioned == plain || plain.ends_with("-v1:0"));
    if first_version {
        add(format!("{unversioned}-v1:0"), &mut names);
    }
    if let Some(undated) = without_snapshot(unversioned, google) {
        add(undated.to_owned(), &mut names);
        if first_version {
            add(format!("{undated}-v1:0"), &mut names);
        }
    }
    names
}

/// `anthropic.claude-opus-4-6-v1:0` → `anthropic.claude-opus-4-6`.
fn without_bedrock_version(model: &str) -> &str {
    let Some((stem, version)) = model.rsplit_once("-v") else {
        return model;
    };
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match version.split_once(':') {
        Some((major, minor)) if is_number(major) && is_number(minor) => stem,
        None if is_number(version) => stem,
        _ => model,
    }
}

/// The name without its snapshot suffix, when it has one.
fn without_snapshot(model: &str, google: bool) -> Option<&str> {
    for word in ["-latest", "@latest", "@default"] {
        if let Some(stem) = model.strip_suffix(word) {
            return Some(stem);
        }
    }
    if let Some((stem, date)) = model.rsplit_once(['-', '@'])
        && (is_date(date) || google && is_three_digits(date))
    {
        return Some(stem);
    }
    let split = model.len().checked_sub("-2024-08-06".len())?;
    let (stem, date) = model.split_at_checked(split)?;
    let date = date.strip_prefix('-')?;
    let bytes = date.as_bytes();
    let dashed = bytes.get(4) == Some(&b'-') && bytes.get(7) == Some(&b'-');
    (dashed && is_date(&date.replace('-', ""))).then_some(stem)
}

/// Whether `text` is a date such as `20250929` of this century.
fn is_date(text: &str) -> bool {
    let part = |range: std::ops::Range<usize>| text.get(range).and_then(|p| p.parse::<u32>().ok());
    text.len() == 8
        && text.bytes().all(|b| b.is_ascii_digit())
        && text.starts_with("20")
        && part(4..6).is_some_and(|month| (1..=12).contains(&month))
        && part(6..8).is_some_and(|day| (1..=31).contains(&day))
}

fn is_three_digits(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::MIN_TIME_US;
    use crate::price::{Component, TierRates};
    use crate::tier::ServiceTier;
    use std::collections::BTreeMap;

    fn price(provider: &str, model: &str, from: i64, version: i64) -> Price {
        let base = [(Component::Input, 1)].into_iter().collect();
        Price {
            provider: provider.into(),
            model: model.into(),
            effective_from_us: from,
            version,
            source: String::new(),
            tiers: BTreeMap::from([(
                ServiceTier::Standard,
                TierRates {
                    base,
                    long_context: Vec::new(),
                },
            )]),
            fees: BTreeMap::new(),
        }
    }

    fn found(book: &Book, provider: &str, model: &str) -> Option<String> {
        book.find(provider, model, MIN_TIME_US)
            .map(|price| format!("{} {}", price.provider, price.model))
    }

    #[test]
    fn the_latest_price_in_force_is_found() {
        let book = Book::new([
            price("openai", "gpt", 200, 2),
            price("openai", "gpt", 100, 1),
            price("openai", "gpt", 200, 3),
            price("openai", "gpt", 300, 4),
        ]);
        let version = |at| book.find("openai", "gpt", at).map(|p| p.version);
        assert_eq!(version(99), None);
        assert_eq!(version(100), Some(1));
        assert_eq!(version(199), Some(1));
        assert_eq!(version(200), Some(3));
        assert_eq!(version(i64::MAX), Some(4));
        assert_eq!(book.len(), 4);
    }

    #[test]
    fn snapshots_fall_back_to_the_undated_name() {
        let at = MIN_TIME_US;
        let book = Book::new([
            price("openai", "gpt-4o", at, 0),
            price("openai", "gpt-4o-2024-05-13", at, 0),
            price("anthropic", "claude-sonnet-4-5", at, 0),
            price("gcp.gemini", "gemini-2.0-flash", at, 0),
            price("gcp.vertex_ai", "claude-opus-4", at, 0),
        ]);
        let expected = [
            (
                "openai",
                "gpt-4o-2024-05-13",
                Some("openai gpt-4o-2024-05-13"),
            ),
            ("openai", "gpt-4o-2024-08-06", Some("openai gpt-4o")),
            ("openai", "gpt-4o-2024-13-06", None),
            ("openai", "gpt-4o-latest", Some("openai gpt-4o")),
            ("openai", "gpt-4o-mini", None),
            ("openai", "gpt-4o-001", None),
            (
                "azure.ai.openai",
                "gpt-4o-2024-08-06",
                Some("openai gpt-4o"),
            ),
            (
                "anthropic",
                "claude-sonnet-4-5-20250929",
                Some("anthropic claude-sonnet-4-5"),
            ),
            ("openrouter", "anthropic/claude-sonnet-4-5-20250929", None),
            (
                "gcp.gemini",
                "models/gemini-2.0-flash-001",
                Some("gcp.gemini gemini-2.0-flash"),
            ),
            (
                "gcp.vertex_ai",
                "gemini-2.0-flash-001",
                Some("gcp.gemini gemini-2.0-flash"),
            ),
            (
                "gcp.vertex_ai",
                "claude-opus-4@20250514",
                Some("gcp.vertex_ai claude-opus-4"),
            ),
            (
                "gcp.vertex_ai",
                "claude-opus-4@default",
                Some("gcp.vertex_ai claude-opus-4"),
            ),
            ("gcp.gemini", "é", None),
        ];
        for (provider, model, want) in expected {
            assert_eq!(
                found(&book, provider, model).as_deref(),
                want,
                "{provider} {model}"
            );
        }
    }

    #[test]
    fn bedrock_versions_may_be_left_out_but_regions_may_not() {
        let at = MIN_TIME_US;
        let book = Book::new([
            price(
                "aws.bedrock",
                "us.anthropic.claude-opus-4-20250514-v1:0",
                at,
                0,
            ),
            price("aws.bedrock", "anthropic.claude-opus-4-6", at, 0),
        ]);
        let expected = [
            ("us.anthropic.claude-opus-4-20250514", true),
            ("us.anthropic.claude-opus-4-20250514-v2:0", false),
            ("eu.anthropic.claude-opus-4-20250514-v1:0", false),
            ("anthropic.claude-opus-4-20250514-v1:0", false),
            ("anthropic.claude-opus-4-6-v1:0", true),
            ("anthropic.claude-opus-4-6-v1", true),
            ("anthropic.claude-opus-4-6-20260205-v1:0", true),
            ("global.anthropic.claude-opus-4-6", false),
        ];
        for (model, want) in expected {
            assert_eq!(
                found(&book, "aws.bedrock", model).is_some(),
                want,
                "{model}"
            );
        }
    }

    #[test]
    fn a_provider_s_own_price_comes_first() {
        let at = MIN_TIME_US;
        let book = Book::new([
            price("openai", "gpt-4o-2024-08-06", at, 0),
            price("azure.ai.openai", "gpt-4o", at, 0),
        ]);
        assert_eq!(
            found(&book, "azure.ai.openai", "gpt-4o-2024-08-06").as_deref(),
            Some("azure.ai.openai gpt-4o")
        );
    }
}
