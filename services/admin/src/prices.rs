//! The price book: set, list, import.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::Arc;

use flate2::read::GzDecoder;
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{MIN_TIME_US, Violation};
use tokenmeter_model::price::{Price, litellm};
use tokenmeter_store::books::{Books, TenantBook};
use tokenmeter_store::clock::Clock;
use tokenmeter_store::ledger::{Ledger, UnpricedPage};

use crate::error::Error;

/// Most prices in one request.
const MAX_PRICES: usize = 1_000;
/// Largest price file after decompression, in bytes.
const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;
/// Most problems in one answer.
const MAX_PROBLEMS: usize = 20_000;
/// Most providers that restrict an import.
const MAX_PROVIDERS: usize = 100;

/// What setting prices changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// The versions added, in the order of the request; version 0 in a dry run.
    pub added: Vec<Price>,
    /// Prices that stood already.
    pub unchanged: usize,
}

/// An entry of a price file, or a price in it, that could not be mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The entry's key.
    pub entry: String,
    /// What is wrong.
    pub description: String,
    /// Whether the rest of the entry was imported.
    pub imported: bool,
}

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Imported {
    /// Entries of the file.
    pub entries: usize,
    /// Models that got their first price.
    pub added: usize,
    /// Models that got a new version.
    pub changed: usize,
    /// Models whose price stood already.
    pub unchanged: usize,
    /// Entries left out: other providers, or not billed by token.
    pub skipped: usize,
    /// Entries that could not be read.
    pub invalid: usize,
    /// What could not be mapped, in the order of the file.
    pub problems: Vec<Problem>,
    /// The prices added or changed.
    pub changes: Vec<Price>,
    /// Highest price version after it.
    pub version: i64,
}

/// Which prices to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PriceQuery {
    pub(crate) provider: String,
    pub(crate) model: String,
    /// The time whose prices to list; none means every version.
    pub(crate) at_us: Option<i64>,
}

/// Administers price books.
pub struct PriceAdmin {
    ledger: Arc<dyn Ledger>,
    books: Arc<Books>,
    pub(crate) clock: Clock,
}

impl PriceAdmin {
    /// A service over a ledger and the books that it feeds.
    pub fn new(ledger: Arc<dyn Ledger>, books: Arc<Books>, clock: Clock) -> Self {
        Self {
            ledger,
            books,
            clock,
        }
    }

    /// Adds versions to the caller's price book.
    ///
    /// # Errors
    /// [`Error::Price`] names every price that is not consistent; nothing is set then.
    pub async fn set(
        &self,
        caller: &Caller,
        prices: Vec<Price>,
        dry_run: bool,
    ) -> Result<Changes, Error> {
        if prices.is_empty() || prices.len() > MAX_PRICES {
            let text = format!(
                "{} prices is out of bounds; send 1 to {MAX_PRICES}",
                prices.len()
            );
            return Err(Violation::new("prices", text).into());
        }
        let mut violations = Vec::new();
        for (n, price) in prices.iter().enumerate() {
            price.check(&format!("prices[{n}]"), &mut violations);
        }
        if !violations.is_empty() {
            return Err(Error::Price(violations));
        }
        let book = self.books.of(&caller.tenant).await?;
        let (standing, new): (Vec<_>, Vec<_>) = prices
            .into_iter()
            .partition(|price| stands(&book, price, price.effective_from_us));
        let mut changes = Changes {
            added: new,
            unchanged: standing.len(),
        };
        if !dry_run {
            self.add(caller, &mut changes.added).await?;
        }
        Ok(changes)
    }

    /// Adds prices and writes their versions into them.
    async fn add(&self, caller: &Caller, prices: &mut [Price]) -> Result<(), Error> {
        let now_us = (self.clock)();
        let versions = self
            .ledger
            .add_prices(Some(&caller.tenant), prices.to_vec(), now_us)
            .await?;
        for (price, (version, _)) in prices.iter_mut().zip(versions) {
            price.version = version;
        }
        self.books.invalidate();
        Ok(())
    }

    /// Prices of the caller's book in order of provider, model, time and version, with whether
    /// each ships with the server.
    ///
    /// # Errors
    /// The ledger's.
    pub(crate) async fn list(
        &self,
        caller: &Caller,
        query: &PriceQuery,
    ) -> Result<Vec<Price>, Error> {
        let matches = |price: &Price| {
            (query.provider.is_empty() || price.provider == query.provider)
                && (query.model.is_empty() || price.model == query.model)
        };
        let mut prices: Vec<Price> = match query.at_us {
            None => self
                .ledger
                .prices(&caller.tenant, 0)
                .await?
                .into_iter()
                .map(|stored| stored.price)
                .filter(matches)
                .collect(),
            Some(at_us) => {
                let book = self.books.of(&caller.tenant).await?;
                let models: BTreeSet<(&str, &str)> = book
                    .iter()
                    .map(|(price, _)| (price.provider.as_str(), price.model.as_str()))
                    .collect();
                models
                    .into_iter()
                    .filter_map(|(provider, model)| book.find(provider, model, at_us))
                    .filter(|price| matches(price))
                    .cloned()
                    .collect()
            }
        };
        prices.sort_by(|a, b| order(a).cmp(&order(b)));
        prices.dedup_by_key(|price| price.version);
        Ok(prices)
    }

    /// Imports a price file in the litellm format.
    ///
    /// A model without a price gets its first one for all time, so that usage of the past is
    /// priced too; another price than the one in force holds from `effective_from_us`, or from now.
    ///
    /// # Errors
    /// [`Error::Import`] when the file as a whole cannot be read; nothing is set then.
    pub async fn import(
        &self,
        caller: &Caller,
        content: &[u8],
        effective_from_us: Option<i64>,
        source: &str,
        providers: &[String],
        dry_run: bool,
    ) -> Result<Imported, Error> {
        check_import(source, providers)?;
        let text = unpack(content)?;
        let import = litellm::read(&text).map_err(|error| Error::Import(error.to_string()))?;
        let book = self.books.of(&caller.tenant).await?;
        let now_us = (self.clock)();
        let mut imported = Imported {
            entries: import.read,
            ..Imported::default()
        };
        let keys: BTreeSet<&str> = import
            .unmapped
            .iter()
            .filter(|unmapped| unmapped.field.is_empty())
            .map(|unmapped| unmapped.key.as_str())
            .collect();
        for unmapped in import.unmapped.iter().take(MAX_PROBLEMS) {
            let whole = unmapped.field.is_empty();
            imported.problems.push(Problem {
                entry: unmapped.key.clone(),
                description: match whole {
                    true => unmapped.reason.to_string(),
                    false => format!("{}: {}", unmapped.field, unmapped.reason),
                },
                imported: !keys.contains(unmapped.key.as_str()),
            });
        }
        imported.skipped = keys.len();
        for mut price in import.prices {
            if !providers.is_empty() && !providers.contains(&price.provider) {
                imported.skipped += 1;
                continue;
            }
            if !source.is_empty() {
                source.clone_into(&mut price.source);
            }
            let at_us = effective_from_us.unwrap_or(now_us);
            match book.exact(&price.provider, &price.model, at_us) {
                Some(standing) if same(standing, &price) => {
                    imported.unchanged += 1;
                    continue;
                }
                Some(_) => {
                    imported.changed += 1;
                    price.effective_from_us = at_us;
                }
                None => {
                    imported.added += 1;
                    price.effective_from_us = effective_from_us.unwrap_or(MIN_TIME_US);
                }
            }
            imported.changes.push(price);
        }
        imported.changes.sort_by(|a, b| order(a).cmp(&order(b)));
        if !dry_run {
            self.add(caller, &mut imported.changes).await?;
        }
        imported.version = self.ledger.last_price_version().await?;
        Ok(imported)
    }

    /// A page of models that wait for a price, each with whether the book has one by now.
    ///
    /// # Errors
    /// The ledger's.
    pub(crate) async fn unpriced(
        &self,
        caller: &Caller,
        after: Option<(&str, &str)>,
        limit: i64,
    ) -> Result<(UnpricedPage, Arc<TenantBook>), Error> {
        let page = self.ledger.unpriced(&caller.tenant, after, limit).await?;
        Ok((page, self.books.of(&caller.tenant).await?))
    }
}

fn order(price: &Price) -> (&str, &str, i64, i64) {
    (
        &price.provider,
        &price.model,
        price.effective_from_us,
        price.version,
    )
}

fn stands(book: &TenantBook, price: &Price, at_us: i64) -> bool {
    book.exact(&price.provider, &price.model, at_us)
        .is_some_and(|standing| same(standing, price))
}

/// Whether two prices charge the same.
fn same(a: &Price, b: &Price) -> bool {
    a.tiers == b.tiers && a.fees == b.fees
}

fn check_import(source: &str, providers: &[String]) -> Result<(), Error> {
    let mut out = Vec::new();
    tokenmeter_model::bounds::text("source", source, &mut out);
    if providers.len() > MAX_PROVIDERS {
        let text = format!(
            "{} providers is too many; send at most {MAX_PROVIDERS}",
            providers.len()
        );
        out.push(Violation::new("providers", text));
    }
    if out.is_empty() {
        Ok(())
    } else {
        Err(Error::Invalid(out))
    }
}

/// The file as text, decompressed when it starts like gzip.
fn unpack(content: &[u8]) -> Result<String, Error> {
    if content.is_empty() {
        return Err(Violation::new("content", "is required; send the price file").into());
    }
    let too_large = || {
        Error::Import(format!(
            "is larger than {MAX_FILE_BYTES} bytes when unpacked"
        ))
    };
    let not_text = |error: std::io::Error| Error::Import(format!("cannot be unpacked: {error}"));
    let mut text = String::new();
    if content.starts_with(&[0x1f, 0x8b]) {
        let mut limited = GzDecoder::new(content).take(MAX_FILE_BYTES + 1);
        limited.read_to_string(&mut text).map_err(not_text)?;
    } else {
        let mut limited = content.take(MAX_FILE_BYTES + 1);
        limited.read_to_string(&mut text).map_err(not_text)?;
    }
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(too_large());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn files_are_unpacked_within_their_bound() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(b"{}").unwrap();
        assert_eq!(unpack(&packed.finish().unwrap()).unwrap(), "{}");
        assert_eq!(unpack(b"{}").unwrap(), "{}");
        assert!(matches!(unpack(b""), Err(Error::Invalid(_))));
        assert!(matches!(unpack(&[0xff, 0xfe]), Err(Error::Import(_))));
        assert!(matches!(unpack(&[0x1f, 0x8b, 0]), Err(Error::Import(_))));
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        bomb.write_all(&vec![b' '; usize::try_from(MAX_FILE_BYTES).unwrap() + 1])
            .unwrap();
        assert!(matches!(
            unpack(&bomb.finish().unwrap()),
            Err(Error::Import(_))
        ));
    }
}
