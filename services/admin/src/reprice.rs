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
/// Lines that a step goes through; the last event in it may have lines behind them. A step is
/// one transaction, which others wait for, and a call looks at its deadline only between steps.
const STEP: i64 = 500;
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

/// A run as a call has it.
struct Run {
    /// What it did so far.
    report: Report,
    /// The same as the ledger remembers it; none before the first step, and in a dry run.
    remembered: Option<String>,
    /// Whether this call has done a step, so that it may stop.
    stepped: bool,
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
        // The book as it is now, not as it was a second ago.
        self.books.invalidate();
        let book = self.books.of(&caller.tenant).await?;
        let mut run = self.stands(asked, &request, &book).await?;
        if run.report.complete {
            return Ok(run.report);
        }
        if asked
            .expected_price_version
            .is_some_and(|expected| expected != book.version())
        {
            return Err(Error::RepriceStale);
        }
        let stop = started + budget;
        while run.report.through < run.report.until {
            self.step(asked, &request, &book, &mut run, stop).await?;
            if run.stepped && Instant::now() >= stop {
                break;
            }
        }
        run.report.complete = run.report.through >= run.report.until;
        if !asked.dry_run && !self.post(&request, &mut run, Vec::new()).await? {
            // An earlier call's step was still with the writer: what stands is its answer.
            run = self.stands(asked, &request, &book).await?;
        }
        Ok(run.report)
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

    /// How far this request has come; at its beginning if it is new, or a dry run, which is not
    /// remembered.
    async fn stands(
        &self,
        asked: &Reprice,
        request: &Request,
        book: &TenantBook,
    ) -> Result<Run, Error> {
        let before = match asked.dry_run {
            true => None,
            false => {
                let name = &request.request_id;
                self.ledger.remembered(&request.tenant, name).await?
            }
        };
        let mut report = match &before {
            Some(before) if !before.is(request) => {
                return Err(Error::RequestConflict(request.request_id.clone()));
            }
            Some(before) => serde_json::from_str(&before.answer)
                .map_err(|error| ledger::Error::Corrupt(format!("a reprice run: {error}")))?,
            None => Report {
                reprice_id: reprice_id(asked, request),
                until: self.ledger.last_position().await?,
                ..Report::default()
            },
        };
        if !report.complete {
            report.price_version = book.version();
        }
        Ok(Run {
            report,
            remembered: before.map(|before| before.answer),
            stepped: false,
        })
    }

    /// Goes through the next positions; not if `stop` has passed when their lines are read and the
    /// call did a step before. Where others came in between, the run is afterwards where it stands.
    async fn step(
        &self,
        asked: &Reprice,
        request: &Request,
        book: &TenantBook,
        run: &mut Run,
        stop: Instant,
    ) -> Result<(), Error> {
        let through = run.report.through;
        let end = self
            .ledger
            .stretch(&request.tenant, through, run.report.until, STEP)
            .await?;
        let lines = self
            .ledger
            .reprice_candidates(&request.tenant, &asked.query, through, end)
            .await?;
        if run.stepped && Instant::now() >= stop {
            return Ok(());
        }
        let adjustments = run.report.examine(&lines, book)?;
        run.report.through = end;
        if !asked.dry_run
            && !adjustments.is_empty()
            && !self.post(request, run, adjustments).await?
        {
            // A line changed since it was read, or a step of an earlier call, which was still with
            // the writer, took the run on: read again from the last step that stands.
            let stepped = run.stepped;
            *run = self.stands(asked, request, book).await?;
            run.stepped = stepped;
            return Ok(());
        }
        run.stepped = true;
        Ok(())
    }

    /// Posts a step, with how far the run has come; answers whether it stands.
    async fn post(
        &self,
        request: &Request,
        run: &mut Run,
        adjustments: Vec<Adjustment>,
    ) -> Result<bool, Error> {
        let report = &run.report;
        let progress = serde_json::to_string(report)
            .map_err(|error| ledger::Error::Corrupt(error.to_string()))?;
        if run.remembered.as_ref() == Some(&progress) {
            return Ok(true);
        }
        let step = RepriceStep {
            request: Request {
                at_us: (self.clock)(),
                ..request.clone()
            },
            previous: run.remembered.clone(),
            reprice_id: report.reprice_id.clone(),
            adjustments,
            progress: progress.clone(),
        };
        let stands = self.ledger.reprice(step).await?;
        if stands {
            run.remembered = Some(progress);
        }
        Ok(stands)
    }
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
