//! Price books as the nodes use them: read once, kept in memory, stale for at most a second.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use tokenmeter_model::counts::Line;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::price::{Book, Price, Quote, quote};
use tokenmeter_model::tier::ServiceTier;
use tokio::sync::Mutex;

use crate::ledger::{Error, Ledger};

/// How old a book may be before the ledger is asked for newer prices.
const FRESH: Duration = Duration::from_secs(1);
/// Tenants whose books are kept; at the bound all are dropped and read again when needed.
const MAX_TENANTS: usize = 1_024;

/// A tenant's own prices, and the shipped ones for what they leave open.
#[derive(Debug, Default)]
pub struct TenantBook {
    own: Book,
    shipped: Book,
}

impl TenantBook {
    /// The price of a model at a time: under its very name before an alias, and the tenant's own
    /// before the shipped one.
    pub fn find(&self, provider: &str, model: &str, at_us: i64) -> Option<&Price> {
        self.exact(provider, model, at_us)
            .or_else(|| self.own.find(provider, model, at_us))
            .or_else(|| self.shipped.find(provider, model, at_us))
    }

    /// The price under this very name, no alias: the tenant's own before the shipped one.
    pub fn exact(&self, provider: &str, model: &str, at_us: i64) -> Option<&Price> {
        self.own
            .exact(provider, model, at_us)
            .or_else(|| self.shipped.exact(provider, model, at_us))
    }

    /// The price of a version that a model had at a time, whatever took its place since.
    pub fn pinned(&self, provider: &str, model: &str, at_us: i64, version: i64) -> Option<&Price> {
        self.find(provider, model, at_us)
            .filter(|price| price.version == version)
            .or_else(|| {
                let mut prices = self.iter().map(|(price, _)| price);
                prices.find(|price| price.version == version)
            })
    }

    /// What a line costs at a time, served in a tier. None when it has no price, or one by which its
    /// cost is out of bounds: such a line is unpriced, never free (R16).
    pub fn quote(
        &self,
        provider: &str,
        tier: ServiceTier,
        line: &Line,
        at_us: i64,
    ) -> Option<Quote> {
        let price = self.find(provider, &line.model, at_us)?;
        quote(price, line, tier).ok()
    }

    /// The highest version in it, shipped prices included; 0 when it is empty.
    pub fn version(&self) -> i64 {
        self.iter()
            .map(|(price, _)| price.version)
            .max()
            .unwrap_or_default()
    }

    /// Whether the tenant has a price of its own for this provider.
    pub fn knows_provider(&self, provider: &str) -> bool {
        self.own.has_provider(provider)
    }

    /// Every price with whether it is shipped, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Price, bool)> {
        self.own
            .iter()
            .map(|price| (price, false))
            .chain(self.shipped.iter().map(|price| (price, true)))
    }
}

/// The books of all tenants.
pub struct Books {
    ledger: Arc<dyn Ledger>,
    kept: RwLock<Kept>,
    refreshing: Mutex<()>,
}

#[derive(Default)]
struct Kept {
    /// The ledger's last price version when it was last asked.
    version: i64,
    asked: Option<Instant>,
    books: HashMap<TenantId, (i64, Arc<TenantBook>)>,
}

impl Books {
    /// Books over a ledger; nothing is read yet.
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self {
            ledger,
            kept: RwLock::default(),
            refreshing: Mutex::default(),
        }
    }

    /// The book of a tenant, at most a second old.
    ///
    /// # Errors
    /// Those of the ledger, when it has to be asked.
    pub async fn of(&self, tenant: &TenantId) -> Result<Arc<TenantBook>, Error> {
        if let Some(book) = self.fresh(tenant) {
            return Ok(book);
        }
        // One task asks; the others wait for its answer.
        let _alone = self.refreshing.lock().await;
        if let Some(book) = self.fresh(tenant) {
            return Ok(book);
        }
        let version = self.ledger.last_price_version().await?;
        let standing = self.with(|kept| {
            kept.version = version;
            kept.asked = Some(Instant::now());
            kept.books
                .get(tenant)
                .filter(|(read, _)| *read == version)
                .map(|(_, book)| book.clone())
        });
        if let Some(book) = standing {
            return Ok(book);
        }
        let (shipped, own): (Vec<_>, Vec<_>) = self
            .ledger
            .prices(tenant, 0)
            .await?
            .into_iter()
            .partition(|stored| stored.shipped);
        let book = Arc::new(TenantBook {
            own: Book::new(own.into_iter().map(|stored| stored.price)),
            shipped: Book::new(shipped.into_iter().map(|stored| stored.price)),
        });
        self.with(|kept| {
            if kept.books.len() >= MAX_TENANTS {
                kept.books.clear();
            }
            kept.books
                .insert(tenant.clone(), (version, Arc::clone(&book)));
        });
        Ok(book)
    }

    /// The book of a tenant, at most a second old, or an older one if the ledger cannot be asked: for
    /// work that has to go on without it.
    ///
    /// # Errors
    /// Those of the ledger, when it has to be asked and no book is kept.
    pub async fn of_or_kept(&self, tenant: &TenantId) -> Result<Arc<TenantBook>, Error> {
        let asked = self.of(tenant).await;
        asked.or_else(|error| {
            let kept = self
                .kept
                .read()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            let book = kept.books.get(tenant).map(|(_, book)| Arc::clone(book));
            book.ok_or(error)
        })
    }

    /// Forgets how fresh the books are: the next use asks the ledger.
    pub fn invalidate(&self) {
        self.with(|kept| kept.asked = None);
    }

    fn fresh(&self, tenant: &TenantId) -> Option<Arc<TenantBook>> {
        // A poisoned lock holds a whole value all the same: every change is one assignment.
        let kept = self
            .kept
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let (read, book) = kept.books.get(tenant)?;
        let fresh = kept.asked.is_some_and(|asked| asked.elapsed() < FRESH);
        (fresh && *read == kept.version).then(|| Arc::clone(book))
    }

    fn with<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(
            &mut self
                .kept
                .write()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn price(model: &str, version: i64) -> Price {
        Price {
            provider: "anthropic".into(),
            model: model.into(),
            effective_from_us: 0,
            version,
            source: String::new(),
            tiers: BTreeMap::new(),
            fees: BTreeMap::new(),
        }
    }

    #[test]
    fn the_very_name_comes_before_an_alias_and_own_before_shipped() {
        let book = TenantBook {
            own: Book::new([price("claude-x", 1), price("claude-y", 2)]),
            shipped: Book::new([price("claude-x-20250101", 3), price("claude-y", 4)]),
        };
        let version = |model: &str| book.find("anthropic", model, 1).map(|price| price.version);
        assert_eq!(version("claude-x-20250101"), Some(3));
        assert_eq!(version("claude-x-20260101"), Some(1));
        assert_eq!(version("claude-y"), Some(2));
        assert_eq!(version("claude-z"), None);
    }
}
