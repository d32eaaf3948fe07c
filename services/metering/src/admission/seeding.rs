//! Making cold counters known: read once, for all who wait.
//!
//! The rule of this module: of a tenant one reader is under way at a time. Who comes meanwhile leaves
//! its keys, and the next reader takes all that were left, so that many cold counters cost few reads.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};

use tokenmeter_model::id::TenantId;
use tokenmeter_store::counters::{CounterKey, Place};

use super::Admission;
use crate::error::Error;

/// Tenants that are read for at once.
const READERS: usize = 32;
/// Counters of one read.
const READ_KEYS: usize = 256;

/// The keys that wait for a reader, and the turns of readers.
pub(super) struct Seeding {
    waiting: Mutex<HashMap<TenantId, BTreeSet<CounterKey>>>,
    turns: [tokio::sync::Mutex<()>; READERS],
    hasher: RandomState,
}

impl Default for Seeding {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            turns: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            hasher: RandomState::new(),
        }
    }
}

impl Seeding {
    /// Bounded by the calls that are under way, each of which waits with its own keys.
    fn leave(&self, tenant: &TenantId, keys: Vec<CounterKey>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.entry(tenant.clone()).or_default().extend(keys);
    }

    fn take(&self, tenant: &TenantId) -> BTreeSet<CounterKey> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(tenant).unwrap_or_default()
    }
}

impl Admission {
    /// Seeds counters from the ledger. Afterwards they are known, unless the reader that had taken them
    /// failed: then they are cold still, and whoever needs them comes again.
    pub(super) async fn seed(&self, place: Place<'_>, keys: Vec<CounterKey>) -> Result<(), Error> {
        let seeding = &self.seeding;
        seeding.leave(place.tenant, keys);
        let turn = seeding.hasher.hash_one(place.tenant) % READERS as u64;
        // Less than `READERS`, which fits.
        let turn = usize::try_from(turn).unwrap_or_default();
        let _turn = seeding.turns[turn].lock().await;
        // None are left if the reader before took them.
        let keys: Vec<_> = seeding.take(place.tenant).into_iter().collect();
        for keys in keys.chunks(READ_KEYS) {
            let (seeds, seen) = self
                .ledger
                .seeds(place.tenant, place.zoned, keys, (self.clock)())
                .await?;
            self.counters.seed(place, seeds, &seen).await?;
        }
        Ok(())
    }
}
