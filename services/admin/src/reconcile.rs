//! Reconciliation runs and what they found. A run goes on when its caller stops waiting: the same
//! request again gets its answer.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokenmeter_api::page::{self, WrongToken};
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{self, Violation};
use tokenmeter_model::fingerprint::{Canonical, FINGERPRINT_BYTES};
use tokenmeter_model::id::TenantId;
use tokenmeter_store::clock::Clock;
use tokenmeter_store::ledger::correction::{Remembered, Request};
use tokenmeter_store::ledger::reconcile::{
    Drift, DriftQuery, DriftState, Reconciled, Resolve, ResolveOutcome,
};
use tokenmeter_store::ledger::{self, Ledger};

use crate::error::Error;

/// The RPCs, as requests are remembered.
const RECONCILE: &str = "Reconcile";
const RESOLVE: &str = "ResolveDrift";
/// Most drifts in the answer of a run.
const MAX_DRIFTS: i64 = 1_000;
/// Tenants that the job reads at a time.
const TENANTS: i64 = 100;
/// What the ids of drifts begin with.
const DRIFT_ID: &str = "drift-";

/// What to reconcile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconcile {
    /// Names the run, 1 to 255 bytes.
    pub request_id: String,
    /// Only totals of this user; empty means all of the tenant.
    pub user_id: String,
    /// Whether to correct what is small.
    pub fix: bool,
}

/// What a run found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// Names the run.
    pub reconcile_id: String,
    /// How much it found.
    pub reconciled: Reconciled,
    /// The drifts as they stand now, largest first, the first 1,000.
    pub drifts: Vec<Drift>,
}

/// A decision about a drift.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Makes it safe to repeat, 1 to 255 bytes.
    pub request_id: String,
    /// The drift.
    pub drift_id: String,
    /// Whether to correct it.
    pub correct: bool,
    /// Why, 1 to 255 bytes.
    pub reason: String,
}

/// A run's figures as they are remembered.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    totals_checked: i64,
    drift_count: i64,
    corrected: i64,
    flagged: i64,
}

/// Compares totals with events.
pub struct ReconcileAdmin {
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    running: Arc<Mutex<HashSet<TenantId>>>,
}

/// A tenant's run; another one is refused until it is dropped.
struct Running {
    all: Arc<Mutex<HashSet<TenantId>>>,
    tenant: TenantId,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.tenant);
    }
}

/// The id of a drift.
pub(crate) fn drift_id(drift: &Drift) -> String {
    format!("{DRIFT_ID}{}", drift.number)
}

impl ReconcileAdmin {
    /// A service over a ledger.
    pub fn new(ledger: Arc<dyn Ledger>, clock: Clock) -> Self {
        Self {
            ledger,
            clock,
            running: Arc::default(),
        }
    }

    /// Runs, and waits for the end of it for `budget`.
    ///
    /// # Errors
    /// [`Error::ReconcileRunning`] when it is not at its end by then, or another run of the tenant is
    /// under way; the run goes on.
    pub async fn reconcile(
        &self,
        caller: &Caller,
        asked: &Reconcile,
        budget: Duration,
    ) -> Result<ReconcileReport, Error> {
        let mut out = Vec::new();
        bounds::required_text("request_id", &asked.request_id, &mut out);
        bounds::text("user_id", &asked.user_id, &mut out);
        if !out.is_empty() {
            return Err(Error::Invalid(out));
        }
        let request = request(caller, asked, (self.clock)());
        let reconcile_id = reconcile_id(&request);
        let name = &request.request_id;
        let before = self.ledger.remembered(&caller.tenant, name).await?;
        let answer = match before {
            Some(before) => read(&before, &request)?,
            None => {
                let running = self.begin(&caller.tenant)?;
                let ledger = Arc::clone(&self.ledger);
                let run = run(ledger, request, asked.clone(), running);
                // It runs by itself: what it has found by the time that the caller goes is not lost.
                let run = tokio::spawn(run);
                match tokio::time::timeout(budget, run).await {
                    Ok(Ok(done)) => done?,
                    Ok(Err(error)) => {
                        return Err(ledger::Error::Unavailable(error.to_string()).into());
                    }
                    Err(_) => return Err(Error::ReconcileRunning),
                }
            }
        };
        let query = DriftQuery {
            reconcile_id: reconcile_id.clone(),
            largest_first: true,
            limit: MAX_DRIFTS,
            ..DriftQuery::default()
        };
        Ok(ReconcileReport {
            reconcile_id,
            reconciled: answer,
            drifts: self.ledger.drifts(&caller.tenant, &query).await?,
        })
    }

    fn begin(&self, tenant: &TenantId) -> Result<Running, Error> {
        let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.insert(tenant.clone()) {
            return Err(Error::ReconcileRunning);
        }
        Ok(Running {
            all: Arc::clone(&self.running),
            tenant: tenant.clone(),
        })
    }

    /// The job: reconciles every tenant and corrects what is small. Says what it found.
    ///
    /// # Errors
    /// The ledger's; what was corrected until then is.
    pub async fn reconcile_all(&self) -> Result<String, Error> {
        let mut sum = Reconciled::default();
        let mut after: Option<TenantId> = None;
        loop {
            let tenants = self.ledger.tenants(after.as_ref(), TENANTS).await?;
            for tenant in &tenants {
                let now_us = (self.clock)();
                let id = format!("reconcile-job-{now_us}");
                let found = self.ledger.reconcile(tenant, "", true, &id, now_us).await?;
                if found.flagged > 0 {
                    tracing::error!(%tenant, flagged = found.flagged, "drift waits for review");
                }
                sum.totals_checked += found.totals_checked;
                sum.drift_count += found.drift_count;
                sum.corrected += found.corrected;
                sum.flagged += found.flagged;
            }
            match tenants.last() {
                Some(last) => after = Some(last.clone()),
                None => break,
            }
        }
        Ok(format!(
            "{} totals, {} drifts, {} corrected, {} wait for review",
            sum.totals_checked, sum.drift_count, sum.corrected, sum.flagged
        ))
    }

    /// A page of drifts, newest first, and the token of the next page, if any.
    ///
    /// # Errors
    /// Fields out of bounds, or the ledger's.
    pub async fn drifts(
        &self,
        caller: &Caller,
        state: Option<DriftState>,
        reconcile_id: String,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Drift>, String), Error> {
        let mut out = Vec::new();
        bounds::text("reconcile_id", &reconcile_id, &mut out);
        if !out.is_empty() {
            return Err(Error::Invalid(out));
        }
        let size = page::size(page_size)?;
        let filters = format!(
            "drifts\u{0}{}\u{0}{state:?}\u{0}{reconcile_id}",
            caller.tenant
        );
        let before = page::read(&filters, page_token)?
            .map(|end| end.parse().map_err(|_| WrongToken))
            .transpose()?;
        let query = DriftQuery {
            state,
            reconcile_id,
            largest_first: false,
            before,
            limit: i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1),
        };
        let mut drifts = self.ledger.drifts(&caller.tenant, &query).await?;
        let more = drifts.len() > size;
        drifts.truncate(size);
        let next = drifts
            .last()
            .filter(|_| more)
            .map(|last| page::token(&filters, &last.number.to_string()));
        Ok((drifts, next.unwrap_or_default()))
    }

    /// Corrects or accepts a flagged drift. The same request again gets the same answer.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn resolve(&self, caller: &Caller, decision: Decision) -> Result<Drift, Error> {
        let Decision {
            request_id,
            drift_id,
            correct,
            reason,
        } = decision;
        let mut out = Vec::new();
        for (field, value) in [
            ("request_id", &request_id),
            ("drift_id", &drift_id),
            ("reason", &reason),
        ] {
            bounds::required_text(field, value, &mut out);
        }
        if !out.is_empty() {
            return Err(Error::Invalid(out));
        }
        let number = drift_id.strip_prefix(DRIFT_ID).map(str::parse);
        let Some(Ok(number)) = number else {
            return Err(Error::NoDrift(drift_id));
        };
        let resolve = Resolve {
            request: Request {
                tenant: caller.tenant.clone(),
                request_id: request_id.clone(),
                rpc: RESOLVE,
                fingerprint: Canonical::new()
                    .text(&drift_id)
                    .number(i64::from(correct))
                    .text(&reason)
                    .finish(),
                user_id: caller.user.clone(),
                at_us: (self.clock)(),
            },
            number,
            correct,
            reason,
        };
        match self.ledger.resolve_drift(resolve).await? {
            ResolveOutcome::Resolved(drift) => Ok(drift),
            ResolveOutcome::NotFound => Err(Error::NoDrift(drift_id)),
            ResolveOutcome::NotFlagged(state) => {
                let text = format!(
                    "names a drift that is {}; send one that is flagged",
                    state.as_str()
                );
                Err(Violation::new("drift_id", text).into())
            }
            ResolveOutcome::RequestConflict => Err(Error::RequestConflict(request_id)),
        }
    }
}

/// A run from its begin to its remembered end.
async fn run(
    ledger: Arc<dyn Ledger>,
    request: Request,
    asked: Reconcile,
    _running: Running,
) -> Result<Reconciled, Error> {
    let id = reconcile_id(&request);
    let (tenant, now_us) = (&request.tenant, request.at_us);
    let found = ledger
        .reconcile(tenant, &asked.user_id, asked.fix, &id, now_us)
        .await?;
    let answer = Answer {
        totals_checked: found.totals_checked,
        drift_count: found.drift_count,
        corrected: found.corrected,
        flagged: found.flagged,
    };
    let answer = serde_json::to_string(&answer)
        .map_err(|error| ledger::Error::Corrupt(error.to_string()))?;
    let stands = ledger.remember(request.clone(), answer).await?;
    read(&stands, &request)
}

fn read(remembered: &Remembered, request: &Request) -> Result<Reconciled, Error> {
    if !remembered.is(request) {
        return Err(Error::RequestConflict(request.request_id.clone()));
    }
    let answer: Answer = serde_json::from_str(&remembered.answer)
        .map_err(|error| ledger::Error::Corrupt(format!("a reconciliation: {error}")))?;
    Ok(Reconciled {
        totals_checked: answer.totals_checked,
        drift_count: answer.drift_count,
        corrected: answer.corrected,
        flagged: answer.flagged,
    })
}

fn request(caller: &Caller, asked: &Reconcile, now_us: i64) -> Request {
    Request {
        tenant: caller.tenant.clone(),
        request_id: asked.request_id.clone(),
        rpc: RECONCILE,
        fingerprint: Canonical::new()
            .text(&asked.user_id)
            .number(i64::from(asked.fix))
            .finish(),
        user_id: caller.user.clone(),
        at_us: now_us,
    }
}

/// Names a run: follows from its request, so that who repeats it gets the same.
fn reconcile_id(request: &Request) -> String {
    let hash: [u8; FINGERPRINT_BYTES] = Canonical::new()
        .text(request.tenant.as_str())
        .text(&request.request_id)
        .finish();
    let hex: String = hash[1..].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("reconcile-{hex}")
}
