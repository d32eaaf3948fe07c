//! The end of the log, shared by all who follow it.
//!
//! One follower a tenant reads the log after a commit that touched it and keeps the newest entries
//! in a ring.
//! A subscription is a position, not a queue: it takes what is after it from the ring, or, when it
//! has fallen behind the ring, reads the log itself, a page at a time. So nothing is ever skipped,
//! and one that stands still costs a position and at most a page.

mod ring;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokenmeter_model::id::TenantId;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use self::ring::{Ring, Taken};
use crate::fault::{Planted, is_planted};
use crate::ledger::log::Page;
use crate::ledger::{Error, Ledger};

/// How long a follower lets commits gather before it reads again.
const COALESCE: Duration = Duration::from_millis(15);
/// How long a follower waits after a read that failed.
const RETRY: Duration = Duration::from_secs(1);
/// Positions that one read of the log covers.
const POSITIONS: i64 = 4_096;
/// Reads by subscriptions that are behind, at once over all tenants. Half of what the embedded
/// ledger reads at once: the other half stays for followers and questions. More wait in line.
const CATCH_UPS: usize = 4;

/// Follows the log of every tenant that has a subscription.
pub struct Tail {
    ledger: Arc<dyn Ledger>,
    followed: Mutex<HashMap<TenantId, Weak<Followed>>>,
    catch_ups: Arc<Semaphore>,
    /// How many rings there are, which share one budget.
    rings: Arc<AtomicUsize>,
}

/// One tenant's newest entries, as of one opening of the ledger: what was read in the one before may
/// be gone. It ends with its last subscription.
struct Followed {
    opening: Arc<str>,
    shared: Arc<Shared>,
    _follower: AbortOnDropHandle<()>,
}

struct Shared {
    ring: Mutex<Ring>,
    rings: Arc<AtomicUsize>,
    progress: watch::Sender<Progress>,
}

/// What wakes subscriptions.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// The position of the newest entry.
    entry: i64,
    /// Why the log cannot be read, as long as it cannot.
    failed: Option<String>,
}

impl Tail {
    /// Follows this ledger.
    pub fn new(ledger: Arc<dyn Ledger>) -> Arc<Self> {
        Arc::new(Self {
            ledger,
            followed: Mutex::default(),
            catch_ups: Arc::new(Semaphore::new(CATCH_UPS)),
            rings: Arc::default(),
        })
    }

    /// The position of now: who subscribes there gets what comes from now on.
    ///
    /// # Errors
    /// The ledger's, when it cannot tell.
    pub async fn end(&self) -> Result<i64, Error> {
        self.ledger.last_position().await
    }

    /// Everything of a tenant after a position, which has to be one that an entry or a page ended
    /// at, or [`Tail::end`].
    pub fn subscribe(self: &Arc<Self>, tenant: &TenantId, after: i64) -> Subscription {
        let followed = self.follow(tenant);
        Subscription {
            progress: followed.shared.progress.subscribe(),
            tail: Arc::clone(self),
            tenant: tenant.clone(),
            followed,
            position: after,
            catch_up: None,
        }
    }

    fn follow(&self, tenant: &TenantId) -> Arc<Followed> {
        let opening = self.ledger.opening();
        let mut all = lock(&self.followed);
        let followed = all.get(tenant).and_then(Weak::upgrade);
        if let Some(followed) = followed.filter(|followed| followed.opening == opening) {
            return followed;
        }
        // Tenants without a subscription leave here, so that the map has no more than the others.
        all.retain(|_, followed| followed.strong_count() > 0);
        let start = *self.ledger.committed().borrow();
        self.rings.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::new(Shared {
            ring: Mutex::new(Ring::new(start)),
            rings: Arc::clone(&self.rings),
            progress: watch::Sender::new(Progress {
                entry: start,
                failed: None,
            }),
        });
        let follower = follower(
            Arc::clone(&self.ledger),
            Arc::clone(&opening),
            tenant.clone(),
            start,
            Arc::clone(&shared),
        );
        let followed = Arc::new(Followed {
            opening,
            shared,
            _follower: AbortOnDropHandle::new(tokio::spawn(follower)),
        });
        all.insert(tenant.clone(), Arc::downgrade(&followed));
        followed
    }
}

/// Reads the log after every commit that touched the tenant, once for all its subscriptions. It ends
/// when the ledger is opened anew: its subscribers have to come back with a position that holds there.
async fn follower(
    ledger: Arc<dyn Ledger>,
    opening: Arc<str>,
    tenant: TenantId,
    mut at: i64,
    shared: Arc<Shared>,
) {
    let mut committed = ledger.committed();
    loop {
        // The position comes before the question: what is committed between waits for the next
        // round.
        let Ok(last) = committed
            .wait_for(|last| *last > at || ledger.opening() != opening)
            .await
            .map(|last| *last)
        else {
            return;
        };
        if ledger.opening() != opening {
            return shared.fail("the ledger was opened anew".into());
        }
        let read = match ledger.touched(&tenant, at) {
            true => ledger.log(&tenant, at, POSITIONS).await,
            false => Ok(Page {
                entries: Vec::new(),
                through: last,
            }),
        };
        match read {
            Ok(page) => {
                at = page.through;
                shared.push(page);
            }
            Err(error) => {
                tracing::error!(%error, "following the log");
                shared.fail(error.to_string());
                tokio::time::sleep(RETRY).await;
            }
        }
        if *committed.borrow() <= at {
            tokio::time::sleep(COALESCE).await;
        }
    }
}

impl Shared {
    fn fail(&self, text: String) {
        self.progress
            .send_modify(|progress| progress.failed = Some(text));
    }

    fn push(&self, page: Page) {
        let newest = page.entries.last().map(|entry| entry.position);
        let max_bytes = ring::share(self.rings.load(Ordering::Relaxed));
        lock(&self.ring).push(page, max_bytes);
        // Nobody is woken for a stretch in which nothing of this tenant happened.
        self.progress.send_if_modified(|progress| {
            let mended = progress.failed.take().is_some();
            if let Some(newest) = newest {
                progress.entry = newest;
            }
            mended || newest.is_some()
        });
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.rings.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One subscriber's place in the log.
pub struct Subscription {
    tail: Arc<Tail>,
    tenant: TenantId,
    followed: Arc<Followed>,
    progress: watch::Receiver<Progress>,
    position: i64,
    /// A read that is under way. It runs by itself, so that a subscriber who does not come back for
    /// it never holds up the others.
    catch_up: Option<AbortOnDropHandle<Result<Page, Error>>>,
}

impl Subscription {
    /// Waits for what happened next: at least one entry, at most a page. May be dropped and called
    /// again without loss.
    ///
    /// # Errors
    /// The ledger's, when it cannot be read. The position stays.
    pub async fn next(&mut self) -> Result<Page, Error> {
        loop {
            if let Some(reading) = &mut self.catch_up {
                let read = reading.await;
                self.catch_up = None;
                let page = read.map_err(|error| Error::Unavailable(error.to_string()))??;
                self.position = page.through;
                if !page.entries.is_empty() {
                    return Ok(page);
                }
                continue;
            }
            let failed = self.progress.borrow_and_update().failed.clone();
            match self.take() {
                Taken::Behind => self.catch_up = Some(AbortOnDropHandle::new(self.read())),
                Taken::Page(page) => {
                    self.position = page.through;
                    if !page.entries.is_empty() {
                        return Ok(page);
                    }
                    if let Some(text) = failed {
                        return Err(Error::Unavailable(text));
                    }
                    let ended = |_| Error::Unavailable("the log is not followed any more".into());
                    self.progress.changed().await.map_err(ended)?;
                }
            }
        }
    }

    /// Everything up to here was answered, or is nothing of this tenant.
    pub fn position(&mut self) -> i64 {
        if self.catch_up.is_none()
            && let Taken::Page(page) = self.take()
            && page.entries.is_empty()
        {
            self.position = page.through;
        }
        self.position
    }

    fn take(&self) -> Taken {
        let ring = lock(&self.followed.shared.ring);
        match ring.after(self.position) {
            Taken::Behind if is_planted(Planted::SkipWhatIsBehind) => ring.after(ring.from()),
            taken => taken,
        }
    }

    fn read(&self) -> JoinHandle<Result<Page, Error>> {
        let tail = Arc::clone(&self.tail);
        let (tenant, after) = (self.tenant.clone(), self.position);
        tokio::spawn(async move {
            let _turn = tail
                .catch_ups
                .acquire()
                .await
                .map_err(|error| Error::Unavailable(error.to_string()))?;
            tail.ledger.log(&tenant, after, POSITIONS).await
        })
    }
}

/// A poisoned lock guards no half-done change here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
