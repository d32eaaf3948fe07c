//! Following the log, so that what the ledger holds is counted whatever became of the call that
//! recorded it.

use std::time::Duration;

use tokenmeter_model::event::{Event, Recorded};
use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::Amounts;
use tokenmeter_model::price::Quote;
use tokenmeter_store::counters::{Delta, Owner};
use tokenmeter_store::ledger;
use tokenmeter_store::ledger::log::{Change, Entry};
use tokio_util::sync::CancellationToken;

use super::Admission;
use crate::error::Error;

/// How often the log is followed, holds are ended, and notes are written.
const EVERY: Duration = Duration::from_secs(1);
/// Positions of the log that one step reads.
const STEP: i64 = 10_000;

impl Admission {
    /// Keeps counters, holds, rules and notes up to date until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let work = async { tokio::join!(self.rules.follow(), self.upkeep()) };
        stop.run_until_cancelled(work).await;
    }

    /// Waits until everything decided is kept. The ledger is closed after it.
    pub async fn close(&self) {
        self.counters.close().await;
        self.notes.write().await;
    }

    async fn upkeep(&self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut well = true;
        loop {
            ticks.tick().await;
            let done = self.sweep().await;
            if let (Err(error), true) = (&done, well) {
                tracing::warn!(%error, "counters do not follow the ledger; what it holds is counted later");
            }
            well = done.is_ok();
            self.notes.write().await;
        }
    }

    /// Ends holds whose time is over, and counts what the log holds of every tenant.
    ///
    /// # Errors
    /// Those of counters and ledger; what was counted until then stays.
    pub async fn sweep(&self) -> Result<(), Error> {
        let mut done = self.counters.expire().await.map_err(Error::from);
        let _alone = self.sweeping.lock().await;
        for (tenant, after) in self.counters.swept().await? {
            // Read before it is asked whether anything happened.
            let through = *self.committed.borrow();
            // One tenant's error holds up no other.
            done = done.and(self.sweep_tenant(&tenant, after, through).await);
        }
        done
    }

    /// Counts at once what the log of one tenant holds of now.
    ///
    /// # Errors
    /// Those of counters and ledger; what was counted until then stays.
    pub(super) async fn catch_up(&self, tenant: &TenantId) -> Result<(), Error> {
        // A sweep may be under way: what both tell of counts once.
        let swept = self.counters.swept().await?;
        let Some((_, after)) = swept.into_iter().find(|(one, _)| one == tenant) else {
            return Ok(());
        };
        let through = self.ledger.last_position().await?;
        self.sweep_tenant(tenant, after, through).await
    }

    async fn sweep_tenant(
        &self,
        tenant: &TenantId,
        mut after: i64,
        through: i64,
    ) -> Result<(), Error> {
        if after >= through {
            return Ok(());
        }
        let rules = self.rules.tenant(tenant).await?;
        let place = self.place(tenant, &rules.zoned);
        if !self.ledger.touched(tenant, after) {
            return Ok(self.counters.sweep(place, &[], through).await?);
        }
        while after < through {
            let page = match self.ledger.log(tenant, after, STEP).await {
                Err(error) if ledger::log::was_dropped(&error) => {
                    // The node was away for longer than events are kept: its holds have expired, and
                    // its counters began anew.
                    tracing::warn!(%tenant, "the log was dropped where counters left it");
                    return Ok(self.counters.sweep(place, &[], through).await?);
                }
                page => page?,
            };
            let deltas: Vec<_> = page.entries.iter().map(|entry| of_entry(entry)).collect();
            if page.through <= after {
                return Ok(());
            }
            self.counters.sweep(place, &deltas, page.through).await?;
            after = page.through;
        }
        Ok(())
    }
}

/// What an entry of the log adds.
fn of_entry(entry: &Entry) -> Delta {
    match &entry.change {
        Change::Recorded(event) => recorded(event, entry.position),
        Change::Voided(event) => {
            let mut delta = recorded(event, entry.position);
            for (_, amounts) in &mut delta.lines {
                *amounts = Amounts::ZERO.minus(amounts);
            }
            delta.settles = None;
            delta
        }
        Change::Repriced {
            event, previous, ..
        } => {
            let cost = |quote: Option<&Option<Quote>>| {
                quote
                    .and_then(|quote| quote.as_ref())
                    .map_or(0, |quote| quote.cost_nano_usd)
            };
            let mut delta = recorded(event, entry.position);
            for (n, (_, amounts)) in delta.lines.iter_mut().enumerate() {
                let (new, old) = (cost(event.quotes.get(n)), cost(previous.get(n)));
                *amounts = Amounts {
                    cost_nano_usd: new.saturating_sub(old),
                    ..Amounts::ZERO
                };
            }
            delta.settles = None;
            delta
        }
    }
}

/// What an event adds, which is on disk with its last line at a position.
fn recorded(recorded: &Recorded, position: i64) -> Delta {
    let (event, quotes) = (&recorded.event, &recorded.quotes);
    delta(
        event,
        quotes,
        recorded.charge_time_us,
        (position, &recorded.api_key_id),
    )
}

/// What an event adds, of these prices, charged at a time; `place` is the position of its last line and
/// the API key with which it was recorded.
pub(super) fn delta(
    event: &Event,
    quotes: &[Option<Quote>],
    charge_time_us: i64,
    (position, api_key_id): (i64, &str),
) -> Delta {
    let lines = event.lines.iter().enumerate().map(|(n, line)| {
        let quote = quotes.get(n).and_then(Option::as_ref);
        (line.model.clone(), Amounts::of_line(line, quote, n == 0))
    });
    let settles = (!event.reservation_id.is_empty())
        .then(|| (event.reservation_id.clone(), event.event_id.clone()));
    Delta {
        position,
        charge_time_us,
        owner: owner(event, api_key_id),
        provider: event.provider.clone(),
        lines: lines.collect(),
        settles,
        tool: false,
    }
}

/// Whose event it is, recorded with an API key or none.
pub(super) fn owner(event: &Event, api_key_id: &str) -> Owner {
    Owner {
        user_id: event.user_id.clone(),
        team_id: event.team_id.clone(),
        session_id: event.session_id.clone(),
        api_key_id: api_key_id.to_owned(),
    }
}
