//! Price files: what `tokenmeter prices set` reads and `tokenmeter prices get` writes.
//!
//! TOML with one `[[price]]` table per model. Rates are text in USD per million tokens
//! (`input = "2.50"`), fees text in USD per request, so that no number passes through a float.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use toml::{Table, Value};

use super::{Component, LongContext, Price, Rates, TierRates};
use crate::bounds::{self, Violation};
use crate::money;
use crate::tier::ServiceTier;

mod time;

/// The tiers that have rates, in the order in which they are written.
const TIERS: [ServiceTier; 5] = [
    ServiceTier::Standard,
    ServiceTier::Batch,
    ServiceTier::Priority,
    ServiceTier::Flex,
    ServiceTier::Fast,
];
/// What `effective_from` says for [`bounds::MIN_TIME_US`].
const ALWAYS: &str = "always";

/// Everything that is wrong with a price file. Each violation's field names the provider, the
/// model and the key, such as `anthropic claude-opus-5: standard.input`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// At least one.
    pub violations: Vec<Violation>,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, violation) in self.violations.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{violation}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Reads a price file. Reports every violation, not the first only; two prices of the same
/// provider, model and time are one.
pub fn parse(text: &str) -> Result<Vec<Price>, Error> {
    let mut out = Vec::new();
    let prices = match text.parse::<Table>() {
        Ok(table) => prices(&table, &mut out),
        Err(error) => {
            let message = error.to_string();
            out.push(Violation::new(
                "file",
                message.trim_end().replace('\n', " "),
            ));
            Vec::new()
        }
    };
    if out.is_empty() {
        Ok(prices)
    } else {
        Err(Error { violations: out })
    }
}

/// Writes a price file that [`parse`] reads back as the same prices, versions aside: a ledger
/// assigns those.
pub fn write<'a>(prices: impl IntoIterator<Item = &'a Price>) -> String {
    let mut out = String::new();
    for price in prices {
        write_price(price, &mut out);
    }
    out
}

fn prices(file: &Table, out: &mut Vec<Violation>) -> Vec<Price> {
    for key in file.keys().filter(|key| *key != "price") {
        out.push(Violation::new(
            key,
            "is not known; a price file has [[price]] tables only",
        ));
    }
    let tables = match file.get("price") {
        Some(Value::Array(tables)) => tables.as_slice(),
        None => &[],
        Some(_) => {
            out.push(Violation::new("price", "is not a list; write [[price]]"));
            &[]
        }
    };
    let mut seen = BTreeMap::new();
    let mut prices = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let Some(table) = table.as_table() else {
            out.push(Violation::new(format!("price[{index}]"), "is not a table"));
            continue;
        };
        let price = Reader::new(index, table, out).price(table);
        let name = (
            price.provider.clone(),
            price.model.clone(),
            price.effective_from_us,
        );
        if let Some(first) = seen.insert(name, index) {
            out.push(Violation::new(
                format!("{} {}: price[{index}]", price.provider, price.model),
                format!("repeats price[{first}] with the same effective_from; remove one"),
            ));
        }
        prices.push(price);
    }
    prices
}

/// Reads one price and says where in the file each violation is.
struct Reader<'a> {
    path: String,
    out: &'a mut Vec<Violation>,
}

impl<'a> Reader<'a> {
    fn new(index: usize, table: &Table, out: &'a mut Vec<Violation>) -> Self {
        let name = |key| table.get(key).and_then(Value::as_str).unwrap_or("?");
        let path = match (table.contains_key("provider"), table.contains_key("model")) {
            (false, false) => format!("price[{index}]"),
            _ => format!("{:.255} {:.255}", name("provider"), name("model")),
        };
        Self { path, out }
    }

    fn violation(&mut self, key: &str, description: impl Into<String>) {
        let field = format!("{}: {key}", self.path);
        self.out.push(Violation::new(field, description));
    }

    fn price(&mut self, table: &Table) -> Price {
        let mut tiers = BTreeMap::new();
        for (key, value) in table {
            match key.as_str() {
                "provider" | "model" | "effective_from" | "source" | "fees" => {}
                name => match TIERS.into_iter().find(|tier| tier.as_str() == name) {
                    Some(tier) => {
                        let rates = self.tier(name, value);
                        tiers.insert(tier, rates);
                    }
                    None => self.violation(
                        name,
                        "is not known; a price has provider, model, effective_from, source, \
                         standard, batch, priority, flex, fast and fees",
                    ),
                },
            }
        }
        let price = Price {
            provider: self.text(table, "provider"),
            model: self.text(table, "model"),
            effective_from_us: self.effective_from(table),
            version: 0,
            source: self.text(table, "source"),
            tiers,
            fees: self.fees(table.get("fees")),
        };
        let mut violations = Vec::new();
        price.check("", &mut violations);
        for violation in violations {
            let key = violation.field.trim_start_matches('.').to_owned();
            let key = key.strip_prefix("tiers.").unwrap_or(&key);
            self.violation(key, violation.description);
        }
        price
    }

    fn text(&mut self, table: &Table, key: &str) -> String {
        match table.get(key) {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(_) => {
                self.violation(key, "is not text; write it in quotes");
                String::new()
            }
        }
    }

    fn effective_from(&mut self, table: &Table) -> i64 {
        let text = match table.get("effective_from") {
            None => return bounds::MIN_TIME_US,
            Some(Value::Datetime(time)) => time.to_string(),
            Some(_) => self.text(table, "effective_from"),
        };
        if text == ALWAYS {
            return bounds::MIN_TIME_US;
        }
        time::parse(&text).unwrap_or_else(|| {
            self.violation(
                "effective_from",
                format!(
                    "{text:.64} is not a time; write always, 2026-01-31 or 2026-01-31T12:00:00Z"
                ),
            );
            bounds::MIN_TIME_US
        })
    }

    fn tier(&mut self, tier: &str, value: &Value) -> TierRates {
        let Some(table) = value.as_table() else {
            self.violation(tier, "is not a table");
            return TierRates::default();
        };
        let mut long_context = Vec::new();
        let above = table.get("above");
        for (index, value) in above
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate()
        {
            let path = format!("{tier}.above[{index}]");
            let Some(table) = value.as_table() else {
                self.violation(&path, "is not a table");
                continue;
            };
            let tokens = table.get("tokens").and_then(Value::as_integer);
            if tokens.is_none() {
                self.violation(
                    &format!("{path}.tokens"),
                    "is required; write a whole number",
                );
            }
            long_context.push(LongContext {
                above_tokens: tokens.unwrap_or(1),
                rates: self.rates(&path, table, "tokens"),
            });
        }
        if above.is_some_and(|above| !above.is_array()) {
            self.violation(&format!("{tier}.above"), "is not a list of tables");
        }
        TierRates {
            base: self.rates(tier, table, "above"),
            long_context,
        }
    }

    fn rates(&mut self, path: &str, table: &Table, other: &str) -> Rates {
        let mut rates = Rates::default();
        for (key, value) in table.iter().filter(|(key, _)| *key != other) {
            let at = format!("{path}.{key}");
            match Component::from_name(key) {
                Some(component) => {
                    let pico = self.amount(&at, value, money::parse_usd_per_million);
                    rates.set(component, pico);
                }
                None => self.violation(&at, "is not a component that has a rate"),
            }
        }
        rates
    }

    fn fees(&mut self, value: Option<&Value>) -> BTreeMap<String, i64> {
        let Some(value) = value else {
            return BTreeMap::new();
        };
        let Some(table) = value.as_table() else {
            self.violation("fees", "is not a table");
            return BTreeMap::new();
        };
        let fees = table.iter().filter_map(|(tool, value)| {
            let fee = self.amount(&format!("fees.{tool}"), value, money::parse_usd_pico)?;
            Some((tool.clone(), fee))
        });
        fees.collect()
    }

    fn amount(
        &mut self,
        path: &str,
        value: &Value,
        read: fn(&str) -> Result<i64, money::ParseError>,
    ) -> Option<i64> {
        let Some(text) = value.as_str() else {
            self.violation(
                path,
                "is not text; write the amount in quotes, such as \"2.50\"",
            );
            return None;
        };
        match read(text) {
            Ok(pico) => Some(pico),
            Err(error) => {
                self.violation(path, format!("\"{text:.64}\" {error}"));
                None
            }
        }
    }
}

fn write_price(price: &Price, out: &mut String) {
    let effective_from = match price.effective_from_us {
        bounds::MIN_TIME_US => ALWAYS.to_owned(),
        us => time::format(us),
    };
    out.push_str("[[price]]\n");
    for (key, value) in [
        ("provider", price.provider.as_str()),
        ("model", &price.model),
        ("effective_from", &effective_from),
        ("source", &price.source),
    ] {
        line(out, key, value);
    }
    for (tier, rates) in &price.tiers {
        let _ = writeln!(out, "[price.{}]", tier.as_str());
        write_rates(&rates.base, out);
        for long in &rates.long_context {
            let _ = writeln!(out, "[[price.{}.above]]", tier.as_str());
            let _ = writeln!(out, "tokens = {}", long.above_tokens);
            write_rates(&long.rates, out);
        }
    }
    if !price.fees.is_empty() {
        out.push_str("[price.fees]\n");
        for (tool, fee) in &price.fees {
            line(out, &quoted(tool), &money::format_pico(*fee));
        }
    }
    out.push('\n');
}

fn write_rates(rates: &Rates, out: &mut String) {
    for (component, pico) in rates.iter() {
        line(
            out,
            component.as_str(),
            &money::format_usd_per_million(pico),
        );
    }
}

fn line(out: &mut String, key: &str, value: &str) {
    let _ = writeln!(out, "{key} = {}", quoted(value));
}

/// A basic TOML string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [[price]]
        provider = "anthropic"
        model = "claude"
        effective_from = "2026-02-05"
        source = "a \"page\" \\ 1"
        [price.standard]
        input = "2.50"
        cache_write_1h = "5"
        [[price.standard.above]]
        tokens = 200000
        input = "5"
        [price.batch]
        input = "1.25"
        [price.fees]
        web_search = "0.01"
    "#;

    fn problems(text: &str) -> Vec<String> {
        let error = parse(text).unwrap_err();
        error.violations.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_is_read_and_written_back() {
        let prices = parse(FILE).unwrap();
        let price = &prices[0];
        assert_eq!(price.effective_from_us, 1_770_249_600_000_000);
        let standard = &price.tiers[&ServiceTier::Standard];
        assert_eq!(standard.base.get(Component::Input), Some(2_500_000));
        assert_eq!(standard.long_context[0].above_tokens, 200_000);
        assert_eq!(price.fees["web_search"], 10_000_000_000);
        assert_eq!(parse(&write(&prices)).unwrap(), prices);
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn violations_name_model_and_key_and_come_all_at_once() {
        let text = FILE
            .replace("\"2.50\"", "2.5")
            .replace("\"1.25\"", "\"1.2x\"")
            .replace("2026-02-05", "soon")
            .replace("cache_write_1h", "cache_write_2h")
            .replace("[price.fees]", "[price.scale]\ninput = \"1\"\n[price.fees]");
        assert_eq!(
            problems(&text),
            [
                "anthropic claude: batch.input: \"1.2x\" is not a decimal number; write one such \
                 as 0.0000025 or 2.5e-06",
                "anthropic claude: scale: is not known; a price has provider, model, \
                 effective_from, source, standard, batch, priority, flex, fast and fees",
                "anthropic claude: standard.cache_write_2h: is not a component that has a rate",
                "anthropic claude: standard.input: is not text; write the amount in quotes, such \
                 as \"2.50\"",
                "anthropic claude: effective_from: soon is not a time; write always, 2026-01-31 \
                 or 2026-01-31T12:00:00Z",
                "anthropic claude: standard: has no rate; send at least one, such as input",
            ]
        );
        assert_eq!(
            problems(&format!("{FILE}{FILE}")),
            [
                "anthropic claude: price[1]: repeats price[0] with the same effective_from; remove one"
            ]
        );
        assert!(problems("x = 1")[0].starts_with("x: is not known"));
        assert!(problems("[[")[0].starts_with("file: "));
    }
}
