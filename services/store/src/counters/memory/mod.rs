//! Counters in memory, for one node; holds are kept in a journal so that they outlive the process.
//!
//! Each tenant has one lock, under which every step is one atomic change. What is used is known from
//! the ledger: after a start all counters are cold. What is held is in the journal: a hold is answered
//! only after it was written there. So is how far the log of each tenant was followed, so that usage
//! which was committed right before a crash settles its hold after it.

mod calendar;
mod counter;
mod holds;
mod journal;
mod restore;
mod subjects;
mod sums;
mod tenant;
#[cfg(test)]
mod tests;
mod told;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::Zoned;
use tokenmeter_model::zone::Zone;

use self::holds::Holds;
use self::journal::Journal;
use self::restore::Restored;
use self::tenant::{Room, Tenant};
use super::{
    Admission, Applied, Ask, Change, Counters, Delta, Error, Extend, Found, Hold, Known,
    MAX_ENDED_HOLDS, Place, REMEMBERED_US, Rule, Seed, Seen, Standing,
};
use crate::clock::Clock;
use crate::fault::{Planted, is_planted};

/// Counters of a node, over all tenants. At the bound those that were not asked for the longest time
/// and have no holds are cold again.
pub const MAX_COUNTERS: usize = 1_000_000;
/// Active holds of a node, over all tenants. At the bound calls are refused as [`Error::Full`].
pub const MAX_ACTIVE_HOLDS: usize = 1_000_000;

/// Holds that are recorded again at once while the journal is written anew.
const RECORDED_AT_ONCE: usize = 1_000;

/// A tenant and its lock.
type Shelf = Arc<Mutex<Tenant>>;
/// A hold that has ended: whose, which, and when.
type Ended = (Shelf, u64, i64);

/// Counters in this process's memory.
pub struct Memory {
    clock: Clock,
    journal: Option<Arc<Journal>>,
    /// The latest time that was seen: the clock never goes back.
    latest_us: AtomicI64,
    tenants: RwLock<HashMap<TenantId, Shelf>>,
    /// About in the order in which they ended.
    ended: Mutex<VecDeque<Ended>>,
    counters: AtomicUsize,
    active: AtomicUsize,
}

impl Memory {
    /// Counters that are all cold, with the holds of a journal, which is created if it is not there.
    /// Without one holds end with the process.
    ///
    /// # Errors
    /// When the journal cannot be read or written, is none, or is open in another process.
    pub fn open(journal: Option<&Path>, clock: Clock) -> Result<Self, Error> {
        let (journal, tenants) = match journal.map(restore::read).transpose()? {
            Some((journal, tenants)) => (Some(Arc::new(journal)), tenants),
            None => (None, HashMap::new()),
        };
        let memory = Self {
            clock,
            journal,
            latest_us: AtomicI64::new(0),
            tenants: RwLock::default(),
            ended: Mutex::default(),
            counters: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
        };
        if !is_planted(Planted::ForgetHolds) {
            memory.restore(tenants);
        }
        Ok(memory)
    }

    fn restore(&self, restored: HashMap<TenantId, Restored>) {
        let mut ended = Vec::new();
        for (name, Restored { swept, holds }) in restored {
            self.active.fetch_add(holds.active(), Ordering::Relaxed);
            let over = holds
                .iter()
                .filter_map(|(id, held)| Some((id, held.ended_us?)));
            let over: Vec<_> = over.collect();
            // Its calendar is set with the first step.
            let zoned = Zoned::always(Zone::utc());
            let tenant = self.tenant(&name, &zoned, swept, holds);
            let shelf = Arc::new(Mutex::new(tenant));
            let over = over.into_iter();
            ended.extend(over.map(|(id, ended_us)| (Arc::clone(&shelf), id, ended_us)));
            write(&self.tenants).insert(name, shelf);
        }
        ended.sort_by_key(|(_, _, ended_us)| *ended_us);
        self.remember(ended);
        self.tidy();
    }

    fn tenant(&self, name: &TenantId, zoned: &Zoned, swept: i64, holds: Holds) -> Tenant {
        let journal = self.journal.clone();
        Tenant::new(name, journal, zoned, self.now_us(), swept, holds)
    }

    fn now_us(&self) -> i64 {
        let now_us = (self.clock)();
        self.latest_us
            .fetch_max(now_us, Ordering::Relaxed)
            .max(now_us)
    }

    /// One step of a tenant, which begins to exist with it.
    fn step<T>(&self, place: Place<'_>, step: impl FnOnce(&mut Tenant, Room) -> T) -> T {
        let room = self.room();
        let shelf = self.shelf(place);
        self.on(&shelf, |tenant, now_us| {
            tenant.begin(place, now_us);
            step(tenant, room)
        })
    }

    /// One step of a tenant, if there is such.
    fn visit<T>(&self, tenant: &TenantId, step: impl FnOnce(&mut Tenant) -> T) -> Option<T> {
        let shelf = read(&self.tenants).get(tenant).cloned()?;
        Some(self.on(&shelf, |tenant, now_us| {
            tenant.expire(now_us);
            step(tenant)
        }))
    }

    fn shelf(&self, place: Place<'_>) -> Shelf {
        if let Some(shelf) = read(&self.tenants).get(place.tenant) {
            return Arc::clone(shelf);
        }
        let mut tenants = write(&self.tenants);
        let shelf = tenants.entry(place.tenant.clone()).or_insert_with(|| {
            let holds = Holds::default();
            let tenant = self.tenant(place.tenant, place.zoned, place.position, holds);
            Arc::new(Mutex::new(tenant))
        });
        Arc::clone(shelf)
    }

    /// Changes a tenant under its lock, and keeps count.
    fn on<T>(&self, shelf: &Shelf, step: impl FnOnce(&mut Tenant, i64) -> T) -> T {
        let mut tenant = lock(shelf);
        let (counters, active) = (tenant.subjects.counters(), tenant.holds.active());
        // Read under the lock, so that no step of a tenant is before the one that it follows.
        let answer = step(&mut tenant, self.now_us());
        recount(&self.counters, counters, tenant.subjects.counters());
        recount(&self.active, active, tenant.holds.active());
        let ended = std::mem::take(&mut tenant.ended);
        drop(tenant);
        if !ended.is_empty() {
            let ended = ended.into_iter();
            self.remember(ended.map(|(id, ended_us)| (Arc::clone(shelf), id, ended_us)));
        }
        answer
    }

    /// Remembers holds that have ended, and forgets the oldest of too many.
    fn remember(&self, ended: impl IntoIterator<Item = Ended>) {
        let mut all = lock(&self.ended);
        all.extend(ended);
        let beyond = all.len().saturating_sub(MAX_ENDED_HOLDS);
        let oldest: Vec<_> = all.drain(..beyond).collect();
        drop(all);
        forget(oldest);
    }

    /// Forgets holds that ended long ago, and tenants that have nothing.
    fn tidy(&self) {
        let before_us = self.now_us().saturating_sub(REMEMBERED_US);
        let mut all = lock(&self.ended);
        let old = all.iter().take_while(|(_, _, at_us)| *at_us <= before_us);
        let old = old.count();
        let oldest: Vec<_> = all.drain(..old).collect();
        drop(all);
        forget(oldest);
        let is_empty = |shelf: &Shelf| {
            let tenant = lock(shelf);
            tenant.is_idle() && tenant.holds.is_empty()
        };
        if !read(&self.tenants).values().any(is_empty) {
            return;
        }
        let mut tenants = write(&self.tenants);
        tenants.retain(|_, shelf| {
            // Who else has the shelf is about to use it; nobody can take it from here meanwhile.
            Arc::strong_count(shelf) > 1 || !is_empty(shelf)
        });
    }

    /// Waits until all that was decided until now is in the journal.
    async fn kept(&self) -> Result<(), Error> {
        match &self.journal {
            Some(journal) => journal.kept().await,
            None => Ok(()),
        }
    }

    /// Syncs the journal, and writes it anew when it is large.
    async fn keep_up(&self) -> Result<(), Error> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        if journal.is_large() {
            let written = self.write_anew(journal).await;
            if written.is_err() {
                journal.drop_next();
            }
            written?;
        }
        in_background(journal, Journal::sync).await
    }

    async fn write_anew(&self, journal: &Arc<Journal>) -> Result<(), Error> {
        if !journal.begin_next()? {
            return Ok(());
        }
        let shelves: Vec<_> = read(&self.tenants).values().cloned().collect();
        for shelf in shelves {
            let holds: Vec<_> = {
                let tenant = lock(&shelf);
                tenant.record_again(&[]);
                tenant.holds.iter().map(|(id, _)| id).collect()
            };
            for some in holds.chunks(RECORDED_AT_ONCE) {
                lock(&shelf).record_again(some);
                journal.flush()?;
                tokio::task::yield_now().await;
            }
        }
        in_background(journal, Journal::take_next).await
    }

    /// Whether there is room for more; drops idle counters if there is none.
    fn room(&self) -> Room {
        if self.counters.load(Ordering::Relaxed) >= MAX_COUNTERS {
            self.drop_idle();
        }
        Room {
            holds: self.active.load(Ordering::Relaxed) < MAX_ACTIVE_HOLDS,
            counters: self.counters.load(Ordering::Relaxed) < MAX_COUNTERS,
        }
    }

    /// Drops the sixteenth part of the counters that was not asked for the longest time.
    fn drop_idle(&self) {
        let shelves: Vec<_> = read(&self.tenants).values().cloned().collect();
        let mut asked = Vec::new();
        for shelf in &shelves {
            asked.extend(lock(shelf).subjects.idle_since());
        }
        if asked.is_empty() {
            return;
        }
        let place = (MAX_COUNTERS / 16).min(asked.len() - 1);
        let (_, until_us, _) = asked.select_nth_unstable(place);
        let until_us = *until_us;
        for shelf in &shelves {
            self.on(shelf, |tenant, _| tenant.subjects.drop_idle(until_us));
        }
    }
}

#[async_trait]
impl Counters for Memory {
    async fn admit(&self, place: Place<'_>, ask: &Ask) -> Result<Known<Admission>, Error> {
        self.check().await?;
        let answer = self.step(place, |tenant, room| tenant.admit(ask, room))?;
        // Of a replay too: who asked first may still be waiting.
        if let Known::Answer(Admission::Admitted { .. }) = answer
            && !ask.dry_run
        {
            self.kept().await?;
        }
        Ok(answer)
    }

    async fn extend(&self, place: Place<'_>, extend: &Extend) -> Result<Known<Change>, Error> {
        self.check().await?;
        let answer = self.step(place, |tenant, room| tenant.extend(extend, room))?;
        if let Known::Answer(Change::Changed { .. }) = answer {
            self.kept().await?;
        }
        Ok(answer)
    }

    async fn release(
        &self,
        place: Place<'_>,
        reservation_id: &str,
        rules: &[Rule],
    ) -> Result<Known<Change>, Error> {
        let answer = self.step(place, |tenant, room| {
            tenant.release(reservation_id, rules, room)
        })?;
        if let Known::Answer(Change::Changed { .. }) = answer {
            self.kept().await?;
        }
        Ok(answer)
    }

    async fn hold(&self, tenant: &TenantId, reservation_id: &str) -> Result<Option<Hold>, Error> {
        let found = self.visit(tenant, |tenant| tenant.find(reservation_id));
        Ok(found.flatten())
    }

    async fn apply(
        &self,
        place: Place<'_>,
        deltas: &[(Delta, Arc<[Rule]>)],
    ) -> Result<Vec<Applied>, Error> {
        let applied: Vec<Applied> = self.step(place, |tenant, _| {
            let deltas = deltas.iter();
            deltas
                .map(|(delta, rules)| tenant.apply(delta, rules))
                .collect()
        });
        let settles = |one: &Applied| matches!(one.found, Found::Settled(_));
        if applied.iter().any(settles) {
            // If it cannot be kept that holds are settled, the log settles them again after a restart.
            let _ = self.kept().await;
        }
        Ok(applied)
    }

    async fn sweep(&self, place: Place<'_>, deltas: &[Delta], through: i64) -> Result<(), Error> {
        self.step(place, |tenant, _| tenant.sweep(deltas, through));
        let _ = self.kept().await;
        Ok(())
    }

    async fn swept(&self) -> Result<Vec<(TenantId, i64)>, Error> {
        let tenants = read(&self.tenants);
        let swept = tenants.iter().filter_map(|(id, shelf)| {
            let tenant = lock(shelf);
            (!tenant.is_idle()).then(|| (id.clone(), tenant.told.swept()))
        });
        Ok(swept.collect())
    }

    async fn seed(&self, place: Place<'_>, seeds: Vec<Seed>, seen: &Seen) -> Result<(), Error> {
        let seen = Arc::new(seen.clone());
        self.step(place, |tenant, _| tenant.seed(&seeds, &seen));
        Ok(())
    }

    async fn standings(
        &self,
        place: Place<'_>,
        rules: &[Rule],
    ) -> Result<Known<Vec<Standing>>, Error> {
        self.step(place, |tenant, room| tenant.standings_of(rules, room))
    }

    async fn expire(&self) -> Result<(), Error> {
        let shelves: Vec<_> = read(&self.tenants).values().cloned().collect();
        for shelf in shelves {
            self.on(&shelf, |tenant, now_us| tenant.expire(now_us));
        }
        self.tidy();
        self.keep_up().await
    }

    async fn holds(&self, tenant: &TenantId) -> Result<Vec<Hold>, Error> {
        let active = self.visit(tenant, |tenant| tenant.active());
        Ok(active.unwrap_or_default())
    }

    async fn check(&self) -> Result<(), Error> {
        self.journal
            .as_ref()
            .map_or(Ok(()), |journal| journal.check())
    }

    async fn close(&self) {
        if let Some(journal) = &self.journal
            && let Err(error) = in_background(journal, Journal::sync).await
        {
            tracing::warn!(%error, "what was held last may be forgotten");
        }
    }
}

/// Does what waits for the disk where nobody else waits for it.
async fn in_background(
    journal: &Arc<Journal>,
    work: impl FnOnce(&Journal) -> Result<(), Error> + Send + 'static,
) -> Result<(), Error> {
    let journal = Arc::clone(journal);
    let done = tokio::task::spawn_blocking(move || work(&journal)).await;
    done.unwrap_or_else(|error| Err(Error::Unavailable(error.to_string())))
}

fn forget(holds: Vec<Ended>) {
    for (shelf, id, _) in holds {
        lock(&shelf).holds.forget(id);
    }
}

/// Sets a count over all tenants right after one of them changed.
fn recount(all: &AtomicUsize, before: usize, after: usize) {
    if after > before {
        all.fetch_add(after - before, Ordering::Relaxed);
    } else if after < before {
        all.fetch_sub(before - after, Ordering::Relaxed);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(shared: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    shared.write().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(shared: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    shared.read().unwrap_or_else(PoisonError::into_inner)
}
