//! Whether a call may run, and what became of what it held (R18, R25, R26).
//!
//! Admission is rules, counters and ledger put together. The rule of this module: [`Rules`] say what
//! applies, [`Counters`] decide in one step, and the ledger is asked only for what neither knows yet,
//! such as the sums that a counter begins with. What the ledger records is told to the counters at
//! once, by the call that recorded it, and again by the sweeper that follows the log; it counts once.

mod authorize;
mod budget;
mod notes;
mod reservation;
mod seeding;
mod settle;
mod sweep;
mod words;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::{Window, Zoned};
use tokenmeter_store::books::Books;
use tokenmeter_store::clock::Clock;
use tokenmeter_store::counters::{self, Counters, Hold, Known, Owner, Place, Rule, Standing};
use tokenmeter_store::ledger::Ledger;
use tokenmeter_store::rules::{Effective, Rules};
use tokio::sync::watch;

pub use authorize::{Authorization, Authorize, Call};
pub use budget::{BudgetChange, TokenBudget};
pub use reservation::{Extend, Extended};
pub use settle::Settled;
pub(crate) use words::seconds_up;
pub use words::{Cause, Refusal};

use crate::error::Error;
use notes::Notes;
use seeding::Seeding;

/// How often one step may find counters cold before it gives up: each time they were seeded, and had to
/// make room before they could be used.
const COLD_TRIES: usize = 8;

/// Decides about calls. One a node.
pub struct Admission {
    ledger: Arc<dyn Ledger>,
    books: Arc<Books>,
    counters: Arc<dyn Counters>,
    rules: Arc<Rules>,
    clock: Clock,
    committed: watch::Receiver<i64>,
    seeding: Seeding,
    notes: Notes,
    /// One sweep at a time.
    sweeping: tokio::sync::Mutex<()>,
}

/// How every rule that applies stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct States {
    /// The rules, in the order in which they are checked.
    pub rules: Arc<[Rule]>,
    /// How each stands; empty if that is not known.
    pub standings: Vec<Standing>,
}

impl States {
    /// The limits that callers are told of: not the token budget of a session, which is told apart.
    pub fn limits(&self) -> impl Iterator<Item = (&Rule, &Standing)> {
        self.all()
            .filter(|(rule, _)| rule.limit.window != Window::Budget)
    }

    /// Every rule with its standing.
    fn all(&self) -> impl Iterator<Item = (&Rule, &Standing)> {
        self.rules.iter().zip(&self.standings)
    }
}

/// What counters answer to one step.
type Step<'a, T> = Pin<Box<dyn Future<Output = Result<Known<T>, counters::Error>> + Send + 'a>>;

impl Admission {
    /// Admission over these ports.
    pub fn new(
        ledger: Arc<dyn Ledger>,
        books: Arc<Books>,
        counters: Arc<dyn Counters>,
        rules: Arc<Rules>,
        clock: Clock,
    ) -> Self {
        Self {
            committed: ledger.committed(),
            seeding: Seeding::default(),
            notes: Notes::new(Arc::clone(&ledger)),
            sweeping: tokio::sync::Mutex::default(),
            ledger,
            books,
            counters,
            rules,
            clock,
        }
    }

    /// How every limit of an owner stands, as if nothing was asked, whatever provider and model it is
    /// for, and what applies to it.
    ///
    /// # Errors
    /// Those of ledger and counters.
    pub async fn states(
        &self,
        tenant: &TenantId,
        owner: &Owner,
    ) -> Result<(Arc<Effective>, States), Error> {
        let effective = self.rules.of(tenant, owner).await?;
        let rules = effective.rules();
        let zoned = &effective.tenant.zoned;
        let states = self.stand(tenant, zoned, rules).await?;
        Ok((effective, states))
    }

    /// A hold, also for a day after its end.
    ///
    /// # Errors
    /// Those of the counters.
    pub async fn hold(
        &self,
        tenant: &TenantId,
        reservation_id: &str,
    ) -> Result<Option<Hold>, Error> {
        Ok(self.counters.hold(tenant, reservation_id).await?)
    }

    /// How rules stand, as if nothing was asked.
    async fn stand(
        &self,
        tenant: &TenantId,
        zoned: &Zoned,
        rules: Arc<[Rule]>,
    ) -> Result<States, Error> {
        let place = self.place(tenant, zoned);
        let standings = self
            .warm(place, || self.counters.standings(place, &rules))
            .await?;
        Ok(States { rules, standings })
    }

    /// Where a step of a tenant happens now.
    fn place<'a>(&self, tenant: &'a TenantId, zoned: &'a Zoned) -> Place<'a> {
        Place {
            tenant,
            zoned,
            position: *self.committed.borrow(),
        }
    }

    /// Takes a step, and seeds the counters that it finds cold.
    async fn warm<'a, T: Send>(
        &self,
        place: Place<'_>,
        step: impl Fn() -> Step<'a, T> + Send + Sync,
    ) -> Result<T, Error> {
        for _ in 0..COLD_TRIES {
            match step().await? {
                Known::Answer(answer) => return Ok(answer),
                Known::Cold(keys) => self.seed(place, keys).await?,
            }
        }
        let text = "counters were cold again as soon as they were seeded";
        Err(counters::Error::Full(text.into()).into())
    }
}
