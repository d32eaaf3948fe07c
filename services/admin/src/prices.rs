//! The price book: set, list, import. What changes it is remembered under its request's name in the
//! same transaction: a retry gets its first answer and changes nothing, however late it comes.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::Arc;

use flate2::read::GzDecoder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{self, MIN_TIME_US, Violation};
use tokenmeter_model::fingerprint::{Canonical, Fingerprint};
use tokenmeter_model::price::{Price, litellm};
use tokenmeter_store::books::{Books, TenantBook};
use tokenmeter_store::clock::Clock;
use tokenmeter_store::ledger::correction::{PriceSet, PricesOutcome, Request};
use tokenmeter_store::ledger::{self, Ledger, UnpricedPage};

use crate::error::Error;

/// Most prices in one request.
const MAX_PRICES: usize = 1_000;
/// Largest price file after decompression, in bytes.
const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;
/// Most problems in one answer.
const MAX_PROBLEMS: usize = 20_000;
/// Most prices in the answer to an import.
const MAX_CHANGES: usize = 1_000;
/// Most providers that restrict an import.
const MAX_PROVIDERS: usize = 100;

/// What setting prices changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// The versions added, in the order of the request; version 0 in a dry run.
    pub added: Vec<Price>,
    /// Prices that stood already.
    pub unchanged: usize,
}

/// An entry of a price file, or a price in it, that could not be mapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The entry's key, its first 255 characters.
    pub entry: String,
    /// What is wrong.
    pub description: String,
    /// Whether the rest of the entry was imported.
    pub imported: bool,
}

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
    /// The prices added or changed, the first 1,000 in order of provider and model.
    pub changes: Vec<Price>,
    /// Highest price version of the tenant's book after it, shipped prices included.
    pub version: i64,
}

/// A price file to import.
#[derive(Debug, Clone, Default)]
pub(crate) struct Import<'a> {
    /// Names the request, 1 to 255 bytes.
    pub(crate) request_id: &'a str,
    /// The file, plain or gzip.
    pub(crate) content: &'a [u8],
    /// From when the prices hold; none means from now.
    pub(crate) effective_from_us: Option<i64>,
    /// Kept with each price; empty means what the format says.
    pub(crate) source: &'a str,
    /// Only prices of these; empty means all.
    pub(crate) providers: &'a [String],
    /// Whether to change nothing.
    pub(crate) dry_run: bool,
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

    /// Adds versions to the caller's price book. The same request again gets its first answer.
    ///
    /// # Errors
    /// [`Error::Price`] names every price that is not consistent; nothing is set then.
    pub(crate) async fn set(
        &self,
        caller: &Caller,
        request_id: &str,
        prices: Vec<Price>,
        dry_run: bool,
    ) -> Result<Changes, Error> {
        check_request_id(request_id)?;
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
        let fingerprint = Canonical::new().text(&json(&prices)?).finish();
        let book = self.books.of(&caller.tenant).await?;
        let (standing, new): (Vec<_>, Vec<_>) = prices
            .into_iter()
            .partition(|price| stands(&book, price, price.effective_from_us));
        let changes = Changes {
            added: new,
            unchanged: standing.len(),
        };
        if dry_run {
            return Ok(changes);
        }
        let request = self.request(caller, request_id, "SetPrices", fingerprint);
        let (mut changes, versions) = self.add(request, changes.added.clone(), &changes).await?;
        number(&mut changes.added, &versions);
        Ok(changes)
    }

    /// A request as it is remembered.
    fn request(
        &self,
        caller: &Caller,
        request_id: &str,
        rpc: &'static str,
        fingerprint: Fingerprint,
    ) -> Request {
        Request {
            tenant: caller.tenant.clone(),
            request_id: request_id.to_owned(),
            rpc,
            fingerprint,
            user_id: caller.user.clone(),
            at_us: (self.clock)(),
        }
    }

    /// Adds prices once for each request. Answers what its first was answered, and the versions of
    /// the prices that it added.
    async fn add<A: Serialize + DeserializeOwned>(
        &self,
        request: Request,
        prices: Vec<Price>,
        answer: &A,
    ) -> Result<(A, Vec<i64>), Error> {
        let request_id = request.request_id.clone();
        let set = PriceSet {
            request,
            prices,
            answer: json(answer)?,
        };
        let outcome = self.ledger.set_prices(set).await?;
        self.books.invalidate();
        match outcome {
            PricesOutcome::Set { versions, answer } => {
                let answer = serde_json::from_str(&answer)
                    .map_err(|error| ledger::Error::Corrupt(format!("an answer: {error}")))?;
                let versions = versions.into_iter().map(|(version, _)| version);
                Ok((answer, versions.collect()))
            }
            PricesOutcome::RequestConflict => Err(Error::RequestConflict(request_id)),
        }
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
    /// The same request again gets its first answer.
    ///
    /// # Errors
    /// [`Error::Import`] when the file as a whole cannot be read; nothing is set then.
    pub(crate) async fn import(
        &self,
        caller: &Caller,
        asked: &Import<'_>,
    ) -> Result<Imported, Error> {
        check_request_id(asked.request_id)?;
        check_import(asked.source, asked.providers)?;
        let text = unpack(asked.content)?;
        let import = litellm::read(&text).map_err(|error| Error::Import(error.to_string()))?;
        let book = self.books.of(&caller.tenant).await?;
        let request = self.request(
            caller,
            asked.request_id,
            "ImportPrices",
            asked.fingerprint(),
        );
        let mut imported = Imported::of(&import);
        let prices = imported.compare(import.prices, asked, &book, request.at_us);
        imported.version = book.version();
        imported.changes = prices.iter().take(MAX_CHANGES).cloned().collect();
        if asked.dry_run {
            return Ok(imported);
        }
        let (mut imported, versions) = self.add(request, prices, &imported).await?;
        number(&mut imported.changes, &versions);
        let last = versions.into_iter().max().unwrap_or_default();
        imported.version = imported.version.max(last);
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

impl Import<'_> {
    /// Of the bytes of the file and of all options. Providers are a set: their order means nothing.
    fn fingerprint(&self) -> Fingerprint {
        let providers: BTreeSet<&String> = self.providers.iter().collect();
        let mut canonical = Canonical::new();
        canonical
            .bytes(self.content)
            .optional(self.effective_from_us)
            .text(self.source)
            .length(providers.len());
        for provider in providers {
            canonical.text(provider);
        }
        canonical.finish()
    }
}

impl Imported {
    /// What reading the file found, before it is held against the book.
    fn of(import: &litellm::Import) -> Self {
        let keys: BTreeSet<&str> = import
            .unmapped
            .iter()
            .filter(|unmapped| unmapped.field.is_empty())
            .map(|unmapped| unmapped.key.as_str())
            .collect();
        let problems = import.unmapped.iter().take(MAX_PROBLEMS);
        let problems = problems.map(|unmapped| Problem {
            entry: unmapped.key.chars().take(bounds::MAX_TEXT_BYTES).collect(),
            description: match unmapped.field.is_empty() {
                true => unmapped.reason.to_string(),
                false => format!("{}: {}", unmapped.field, unmapped.reason),
            },
            imported: !keys.contains(unmapped.key.as_str()),
        });
        Self {
            entries: import.read,
            problems: problems.collect(),
            skipped: keys.len(),
            ..Self::default()
        }
    }

    /// Counts what differs from the book, and answers those prices in order.
    fn compare(
        &mut self,
        prices: Vec<Price>,
        asked: &Import<'_>,
        book: &TenantBook,
        now_us: i64,
    ) -> Vec<Price> {
        let at_us = asked.effective_from_us.unwrap_or(now_us);
        let mut changes = Vec::new();
        for mut price in prices {
            if !asked.providers.is_empty() && !asked.providers.contains(&price.provider) {
                self.skipped += 1;
                continue;
            }
            if !asked.source.is_empty() {
                asked.source.clone_into(&mut price.source);
            }
            match book.exact(&price.provider, &price.model, at_us) {
                Some(standing) if same(standing, &price) => {
                    self.unchanged += 1;
                    continue;
                }
                Some(_) => {
                    self.changed += 1;
                    price.effective_from_us = at_us;
                }
                None => {
                    self.added += 1;
                    price.effective_from_us = asked.effective_from_us.unwrap_or(MIN_TIME_US);
                }
            }
            changes.push(price);
        }
        changes.sort_by(|a, b| order(a).cmp(&order(b)));
        changes
    }
}

/// Writes versions into the prices that have them, in the same order.
fn number(prices: &mut [Price], versions: &[i64]) {
    for (price, version) in prices.iter_mut().zip(versions) {
        price.version = *version;
    }
}

fn json(value: &impl Serialize) -> Result<String, ledger::Error> {
    serde_json::to_string(value).map_err(|error| ledger::Error::Corrupt(error.to_string()))
}

fn check_request_id(request_id: &str) -> Result<(), Error> {
    let mut out = Vec::new();
    bounds::required_text("request_id", request_id, &mut out);
    if out.is_empty() {
        Ok(())
    } else {
        Err(Error::Invalid(out))
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
    bounds::text("source", source, &mut out);
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
