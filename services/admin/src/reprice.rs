//! Reprice runs: recorded lines get the price that the book has for them now (R16). A run goes
//! through the lines in commit order, a step at a time, and remembers with every step how far it
//! has come, so that the same request goes on where it stopped.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{self, Kind, Violation};
use tokenmeter_model::fingerprint::{Canonical, FINGERPRINT_BYTES};
use tokenmeter_model::id::TenantId;
use tokenmeter_model::price::Quote;
use tokenmeter_model::tier::ServiceTier;
use tokenmeter_store::books::{Books, TenantBook};
use tokenmeter_store::clock::Clock;
use tokenmeter_store::ledger::correction::{
    Adjustment, RepriceCandidate, RepriceQuery, RepriceStep, Request,
};
use tokenmeter_store::ledger::{self, Ledger};

use crate::error::Error;

/// The RPC, as requests are remembered.
const RPC: &str = "RepriceUsage";
/// Positions that are read at once.
const STRETCH: i64 = 20_000;
/// Lines of a step at most. A step is one transaction, which others wait for.
const STEP_LINES: usize = 1_000;
/// Models that a report tells apart; lines of further models count in its sums only.
const MAX_MODELS: usize = 10_000;

/// What to reprice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reprice {
    /// Names the run, 1 to 255 bytes.
    pub request_id: String,
    /// Which lines.
    pub query: RepriceQuery,
    /// Whether to change nothing.
    pub dry_run: bool,
    /// The highest price version that the book may have.
    pub expected_price_version: Option<i64>,
}

/// What a run did so far, or in a dry run would do. Money is in nano-USD.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Names the run on its entries; empty in a dry run.
    pub reprice_id: String,
    /// Lines that fit the conditions.
    pub examined: i64,
    /// Lines that had no price and got one.
    pub priced: i64,
    /// Lines that had a price and got another.
    pub changed: i64,
    /// Lines that still have none.
    pub unpriced: i64,
    /// What the examined lines cost before.
    pub cost_before: i64,
    /// What they cost after.
    pub cost_after: i64,
    /// Lines priced or changed by `provider/model`.
    pub models: BTreeMap<String, ModelReport>,
    /// The highest version in the book that was used last.
    pub price_version: i64,
    /// Whether the run has come to its end.
    pub complete: bool,
    /// Position of the last event that it has been through.
    through: i64,
    /// Position where it ends: what is recorded after its begin has the new price anyway.
    until: i64,
}

/// What a run did to one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelReport {
    /// Lines priced or changed.
    pub lines: i64,
    /// What they cost before.
    pub cost_before: i64,
    /// What they cost after.
    pub cost_after: i64,
}

impl ModelReport {
    /// How much the run changed its cost, either way.
    pub fn change(&self) -> u64 {
        self.cost_after.abs_diff(self.cost_before)
    }
}

/// Reprices recorded usage.
pub struct RepriceAdmin {
    ledger: Arc<dyn Ledger>,
    books: Arc<Books>,
    clock: Clock,
    running: Mutex<HashSet<TenantId>>,
}

/// A tenant's run; another one is refused until it is dropped.
struct Running<'a> {
    all: &'a Mutex<HashSet<TenantId>>,
    tenant: &'a TenantId,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(self.tenant);
    }
}

impl RepriceAdmin {
    /// A service over a ledger and the books that it feeds.
    pub fn new(ledger: Arc<dyn Ledger>, books: Arc<Books>, clock: Clock) -> Self {
        Self {
            ledger,
            books,
            clock,
            running: Mutex::default(),
        }
    }

    /// Runs until the end, or until `budget` has passed; then the same request goes on. Whatever the
    /// budget, a call does a step.
    ///
    /// # Errors
    /// Why the run did not begin or go on; steps before stand, and the same request goes on after
    /// them.
    pub async fn reprice(
        &self,
        caller: &Caller,
        asked: &Reprice,
        budget: Duration,
    ) -> Result<Report, Error> {
        check(asked)?;
        let started = Instant::now();
        let request = request(caller, asked, (self.clock)());
        let _running = match asked.dry_run {
            true => None,
            false => Some(self.begin(&caller.tenant)?),
        };
        let mut report = match self.before(asked, &request).await? {
            Some(report) if report.complete => return Ok(report),
            Some(report) => report,
            None => Report {
                reprice_id: reprice_id(asked, &request),
                until: *self.ledger.committed().borrow(),
                ..Report::default()
            },
        };
        // The book as it is now, not as it was a second ago.
        self.books.invalidate();
        let book = self.books.of(&caller.tenant).await?;
        report.price_version = book.version();
        if asked
            .expected_price_version
            .is_some_and(|expected| expected != report.price_version)
        {
            return Err(Error::RepriceStale);
        }
        let stop = started + budget;
        while report.through < report.until {
            self.stretch(asked, &request, &book, &mut report, stop)
                .await?;
            if Instant::now() >= stop {
                break;
            }
        }
        report.complete = report.through >= report.until;
        if !asked.dry_run {
            self.post(&request, &report, Vec::new()).await?;
        }
        Ok(report)
    }

    fn begin<'a>(&'a self, tenant: &'a TenantId) -> Result<Running<'a>, Error> {
        let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.insert(tenant.clone()) {
            return Err(Error::RepriceRunning);
        }
        Ok(Running {
            all: &self.running,
            tenant,
        })
    }

    /// How far this request came before; none if it is new or a dry run, which is not remembered.
    async fn before(&self, asked: &Reprice, request: &Request) -> Result<Option<Report>, Error> {
        if asked.dry_run {
            return Ok(None);
        }
        let before = self
            .ledger
            .remembered(&request.tenant, &request.request_id)
            .await?;
        let Some(before) = before else {
            return Ok(None);
        };
        if !before.is(request) {
            return Err(Error::RequestConflict(request.request_id.clone()));
        }
        let report = serde_json::from_str(&before.answer);
        let corrupt = |error| ledger::Error::Corrupt(format!("a reprice run: {error}"));
        Ok(Some(report.map_err(corrupt)?))
    }

    /// Goes through the next lines: all of a stretch, or what is done of it by `stop`, a step at
    /// least.
    async fn stretch(
        &self,
        asked: &Reprice,
        request: &Request,
        book: &TenantBook,
        report: &mut Report,
        stop: Instant,
    ) -> Result<(), Error> {
        let end = report.until.min(report.through.saturating_add(STRETCH));
        let tenant = &request.tenant;
        let candidates = self
            .ledger
            .reprice_candidates(tenant, &asked.query, report.through, end)
            .await?;
        let mut rest = &candidates[..];
        while !rest.is_empty() {
            let (step, after) = rest.split_at(step_end(rest));
            let mut next = report.clone();
            let adjustments = next.examine(step, book)?;
            next.through = match after.first() {
                Some(_) => step.last().map_or(end, |line| line.event_position),
                None => end,
            };
            if !asked.dry_run
                && !adjustments.is_empty()
                && !self.post(request, &next, adjustments).await?
            {
                // A line changed since it was read: read again from the last step that stands.
                return Ok(());
            }
            *report = next;
            rest = after;
            if Instant::now() >= stop && !rest.is_empty() {
                return Ok(());
            }
        }
        report.through = end;
        Ok(())
    }

    /// Posts a step, with how far the run has come.
    async fn post(
        &self,
        request: &Request,
        report: &Report,
        adjustments: Vec<Adjustment>,
    ) -> Result<bool, Error> {
        let progress = serde_json::to_string(report)
            .map_err(|error| ledger::Error::Corrupt(error.to_string()))?;
        let step = RepriceStep {
            request: Request {
                at_us: (self.clock)(),
                ..request.clone()
            },
            reprice_id: report.reprice_id.clone(),
            adjustments,
            progress,
        };
        Ok(self.ledger.reprice(step).await?)
    }
}

/// Where a step ends: after [`STEP_LINES`] at most, and never within an event.
fn step_end(lines: &[RepriceCandidate]) -> usize {
    if lines.len() <= STEP_LINES {
        return lines.len();
    }
    let cut = lines[STEP_LINES].event_position;
    let end = lines[..STEP_LINES]
        .iter()
        .rposition(|line| line.event_position != cut);
    // An event has far fewer lines than a step.
    end.map_or(STEP_LINES, |last| last + 1)
}

impl Report {
    /// Counts lines in, and answers the entries that they need.
    fn examine(
        &mut self,
        lines: &[RepriceCandidate],
        book: &TenantBook,
    ) -> Result<Vec<Adjustment>, Error> {
        let mut adjustments = Vec::new();
        for line in lines {
            let from = line.priced.quote;
            let tier = ServiceTier::served(&line.provider, &line.service_tier);
            let to = book.quote(&line.provider, tier, &line.priced.line, line.charge_time_us);
            // A line that has a price keeps it where the book has none any more.
            let stands = to.or(from);
            let cost = |quote: Option<_>| quote.map_or(0, |quote: Quote| quote.cost_nano_usd);
            self.examined += 1;
            self.unpriced += i64::from(stands.is_none());
            add(&mut self.cost_before, cost(from))?;
            add(&mut self.cost_after, cost(stands))?;
            let Some(to) = stands.filter(|to| !from.is_some_and(|from| same(&from, to))) else {
                continue;
            };
            self.priced += i64::from(from.is_none());
            self.changed += i64::from(from.is_some());
            let model = format!("{}/{}", line.provider, line.priced.line.model);
            if self.models.len() < MAX_MODELS || self.models.contains_key(&model) {
                let model = self.models.entry(model).or_default();
                model.lines += 1;
                add(&mut model.cost_before, cost(from))?;
                add(&mut model.cost_after, to.cost_nano_usd)?;
            }
            adjustments.push(Adjustment {
                position: line.position,
                from,
                to,
            });
        }
        Ok(adjustments)
    }
}

/// Whether two quotes come to the same figures, whatever version they are from.
fn same(a: &Quote, b: &Quote) -> bool {
    a.cost_nano_usd == b.cost_nano_usd
        && a.cache_saving_nano_usd == b.cache_saving_nano_usd
        && a.cache_write_extra_nano_usd == b.cache_write_extra_nano_usd
}

fn add(sum: &mut i64, more: i64) -> Result<(), Error> {
    *sum = sum
        .checked_add(more)
        .ok_or_else(|| ledger::Error::OutOfRange("a run's cost passes 64 bits".into()))?;
    Ok(())
}

fn check(asked: &Reprice) -> Result<(), Error> {
    let mut out = Vec::new();
    bounds::required_text("request_id", &asked.request_id, &mut out);
    bounds::text("provider", &asked.query.provider, &mut out);
    bounds::text("model", &asked.query.model, &mut out);
    if let Some(range) = asked.query.range
        && range.from_us > range.to_us
    {
        let text = "ends before it starts; send an end_time that is not before start_time";
        out.push(Violation::new("range", text).kind(Kind::Range));
    }
    if out.is_empty() {
        Ok(())
    } else {
        Err(Error::Invalid(out))
    }
}

fn request(caller: &Caller, asked: &Reprice, now_us: i64) -> Request {
    let RepriceQuery {
        provider,
        model,
        range,
        include_priced,
    } = &asked.query;
    let fingerprint = Canonical::new()
        .text(provider)
        .text(model)
        .optional(range.map(|range| range.from_us))
        .optional(range.map(|range| range.to_us))
        .number(i64::from(*include_priced))
        .optional(asked.expected_price_version)
        .finish();
    Request {
        tenant: caller.tenant.clone(),
        request_id: asked.request_id.clone(),
        rpc: RPC,
        fingerprint,
        user_id: caller.user.clone(),
        at_us: now_us,
    }
}

/// Names a run: follows from its request, so that who repeats it gets the same.
fn reprice_id(asked: &Reprice, request: &Request) -> String {
    if asked.dry_run {
        return String::new();
    }
    let hash: [u8; FINGERPRINT_BYTES] = Canonical::new()
        .text(request.tenant.as_str())
        .text(&request.request_id)
        .finish();
    let hex: String = hash[1..].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("reprice-{hex}")
}

#[cfg(test)]
#[path = "reprice_tests.rs"]
mod tests;
