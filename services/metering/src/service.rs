//! From drafts to what stands in the ledger.

use std::sync::Arc;
use std::time::Duration;

use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{MAX_BATCH_EVENTS, Violation};
use tokenmeter_model::counts::Line;
use tokenmeter_model::event::{Draft, Event, ProviderUsage, Usage};
use tokenmeter_model::price::{Quote, quote};
use tokenmeter_model::provider::{self, Normalized, Provider, Response};
use tokenmeter_model::tier::ServiceTier;
use tokenmeter_store::books::{Books, TenantBook};
use tokenmeter_store::clock::Clock;
use tokenmeter_store::counters::Hold;
use tokenmeter_store::ledger::{self, Ledger, Submission};

use crate::admission::{Admission, Settled, States};
use crate::error::Error;
use crate::metrics;

/// How long a message of a stream waits before it tries a full queue again.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(20);

/// Records usage. Clones are the same service.
#[derive(Clone)]
pub struct Metering {
    pub(crate) ledger: Arc<dyn Ledger>,
    books: Arc<Books>,
    pub(crate) clock: Clock,
    pub(crate) admission: Arc<Admission>,
}

/// What stands in the ledger for one submitted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Whether it stood there before (R2); the rest is then as it was first recorded.
    pub duplicate: bool,
    /// The event with its lines.
    pub event: Event,
    /// One quote a line; none means unpriced.
    pub quotes: Vec<Option<Quote>>,
    /// The time it is charged at, in microseconds since the Unix epoch.
    pub charge_time_us: i64,
    /// When it was first recorded, in microseconds since the Unix epoch.
    pub recorded_at_us: i64,
    /// The position of its last line.
    pub last_position: i64,
    /// The API key with which it was first recorded; empty means other credentials.
    pub api_key_id: String,
    /// What became of the reservation that it names; none if it names none.
    pub settled: Option<Settled>,
    /// How limits stand after it, where that was asked for or it names a reservation.
    pub states: Option<States>,
}

/// Events on their way to the ledger, each of which was read or not.
pub(crate) type Drafts = Vec<Result<Draft, Vec<Violation>>>;

impl Metering {
    /// A service over a ledger, the price books of its tenants, and their limits.
    pub fn new(
        ledger: Arc<dyn Ledger>,
        books: Arc<Books>,
        clock: Clock,
        admission: Arc<Admission>,
    ) -> Self {
        Self {
            ledger,
            books,
            clock,
            admission,
        }
    }

    /// What decides whether calls may run.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Records one event. `include_limits` asks how limits stand after it even if it names no
    /// reservation.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn record(
        &self,
        caller: &Caller,
        draft: Result<Draft, Vec<Violation>>,
        include_limits: bool,
    ) -> Result<Recorded, Error> {
        let drafts = vec![draft];
        let mut results = self.record_batch(caller, drafts, include_limits).await?;
        results
            .pop()
            .unwrap_or_else(|| Err(ledger::Error::Corrupt("no outcome".into()).into()))
    }

    /// Records a batch; one result an event, in order. A bad event never fails the others.
    ///
    /// # Errors
    /// Why the batch as a whole was not tried: its size, or the ledger.
    pub async fn record_batch(
        &self,
        caller: &Caller,
        drafts: Drafts,
        include_limits: bool,
    ) -> Result<Vec<Result<Recorded, Error>>, Error> {
        if drafts.is_empty() || drafts.len() > MAX_BATCH_EVENTS {
            let error = wrong_size(drafts.len());
            metrics::count_refused(error.reason_name(), drafts.len() as u64);
            return Err(error);
        }
        self.record_all(caller, drafts, include_limits, WhenFull::Refuse)
            .await
    }

    /// The same for a message of a stream, whose size was checked: a full queue before the ledger is
    /// waited for, because who has a stream open is held up by not being read from, and not refused.
    ///
    /// # Errors
    /// Why nothing of it was tried: the ledger.
    pub async fn record_streamed(
        &self,
        caller: &Caller,
        drafts: Drafts,
        include_limits: bool,
    ) -> Result<Vec<Result<Recorded, Error>>, Error> {
        self.record_all(caller, drafts, include_limits, WhenFull::Wait)
            .await
    }

    /// Records, and counts what came of it.
    async fn record_all(
        &self,
        caller: &Caller,
        drafts: Drafts,
        include_limits: bool,
        when_full: WhenFull,
    ) -> Result<Vec<Result<Recorded, Error>>, Error> {
        let events = drafts.len() as u64;
        let mut results = self.try_all(caller, drafts, when_full).await;
        match &mut results {
            Ok(results) => {
                metrics::count(results);
                self.admission
                    .settle(&caller.tenant, results, include_limits)
                    .await;
            }
            Err(error) => metrics::count_refused(error.reason_name(), events),
        }
        results
    }

    async fn try_all(
        &self,
        caller: &Caller,
        drafts: Drafts,
        when_full: WhenFull,
    ) -> Result<Vec<Result<Recorded, Error>>, Error> {
        let book = self.books.of(&caller.tenant).await?;
        let now_us = (self.clock)();
        let mut submissions = Vec::with_capacity(drafts.len());
        let mut results = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let prepared = match draft {
                Err(violations) => Err(Error::Invalid(violations)),
                Ok(draft) => {
                    let hold = self.hold_of(caller, &draft).await;
                    prepare(caller, &book, draft, hold.as_ref(), now_us)
                }
            };
            results.push(prepared.map(|submission| submissions.push(submission)));
        }
        let submissions: Arc<[Submission]> = submissions.into();
        let outcomes = self.submit(&submissions, when_full).await?;
        let mut recorded = submissions.iter().zip(outcomes);
        Ok(results
            .into_iter()
            .map(|prepared| {
                prepared?;
                let (submission, outcome) = recorded
                    .next()
                    .ok_or_else(|| ledger::Error::Corrupt("an outcome is missing".into()))?;
                stand(submission, outcome?)
            })
            .collect())
    }

    /// The hold that an event settles, if it names one that is known.
    async fn hold_of(&self, caller: &Caller, draft: &Draft) -> Option<Hold> {
        let reservation_id = &draft.event.reservation_id;
        if reservation_id.is_empty() {
            return None;
        }
        let hold = self.admission.hold(&caller.tenant, reservation_id).await;
        hold.unwrap_or_else(|error| {
            // Recording goes on: the event is charged at its own time.
            tracing::warn!(%error, "a hold is not known");
            None
        })
    }

    async fn submit(
        &self,
        submissions: &Arc<[Submission]>,
        when_full: WhenFull,
    ) -> Result<Vec<Result<ledger::Outcome, ledger::Error>>, ledger::Error> {
        loop {
            match self.ledger.record(Arc::clone(submissions)).await {
                Err(ledger::Error::Overloaded(_)) if when_full == WhenFull::Wait => {
                    tokio::time::sleep(FULL_QUEUE_PAUSE).await;
                }
                answer => return answer,
            }
        }
    }
}

/// What to do when the queue before the ledger is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhenFull {
    Refuse,
    Wait,
}

/// Why a message with so many events is refused.
pub(crate) fn wrong_size(events: usize) -> Error {
    let text = format!("{events} events is out of bounds; send 1 to {MAX_BATCH_EVENTS} events");
    Error::Invalid(vec![Violation::new("events", text)])
}

/// What stands after an outcome.
fn stand(submission: &Submission, outcome: ledger::Outcome) -> Result<Recorded, Error> {
    match outcome {
        ledger::Outcome::Recorded { position } => Ok(Recorded {
            duplicate: false,
            last_position: last_position(position, &submission.event),
            event: submission.event.clone(),
            quotes: submission.quotes.clone(),
            charge_time_us: submission.charge_time_us,
            recorded_at_us: submission.recorded_at_us,
            api_key_id: submission.api_key_id.clone(),
            settled: None,
            states: None,
        }),
        ledger::Outcome::Duplicate(first) => Ok(Recorded {
            duplicate: true,
            last_position: last_position(first.position, &first.event),
            event: first.event,
            quotes: first.quotes,
            charge_time_us: first.charge_time_us,
            recorded_at_us: first.recorded_at_us,
            api_key_id: first.api_key_id,
            settled: None,
            states: None,
        }),
        ledger::Outcome::TooOld { oldest_us } => Err(Error::TooOld { oldest_us }),
        ledger::Outcome::ReservationSettled { event_id } => {
            Err(Error::ReservationSettled(event_id))
        }
        ledger::Outcome::Conflict(standing) if standing.voided.is_some() => {
            Err(Error::Voided(standing.event.event_id))
        }
        ledger::Outcome::Conflict(standing) => Err(Error::Conflict {
            differing: submission.event.differing_fields(&standing.event),
            event_id: standing.event.event_id,
        }),
    }
}

/// Where the last line of an event stands whose first stands at a position.
fn last_position(first: i64, event: &Event) -> i64 {
    let more = event.lines.len().saturating_sub(1);
    first.saturating_add(i64::try_from(more).unwrap_or_default())
}

/// Turns a draft into an event that passed every check, priced. `hold` is the one that it names, if
/// that is known.
fn prepare(
    caller: &Caller,
    book: &TenantBook,
    draft: Draft,
    hold: Option<&Hold>,
    now_us: i64,
) -> Result<Submission, Error> {
    let Draft { mut event, usage } = draft;
    let names_team = !event.team_id.is_empty();
    for (field, own) in [
        (&mut event.user_id, &caller.user),
        (&mut event.team_id, &caller.team_id),
    ] {
        if field.is_empty() {
            field.clone_from(own);
        }
    }
    let known = canonical_provider(book, &mut event)?;
    match usage {
        Some(Usage::Lines(lines)) => event.lines = lines,
        Some(Usage::Provider(usage)) => fill(&mut event, known, &usage)?,
        None => {}
    }
    let violations = event.check(now_us);
    if !violations.is_empty() {
        return Err(Error::Invalid(violations));
    }
    // Of what the caller sent: a retry finds its event when the hold is long forgotten.
    let fingerprint = event.fingerprint();
    if let Some(hold) = hold {
        agree(&event, names_team, hold)?;
        take_over(&mut event, names_team, hold);
    }
    let own_time_us = event.request_time_us.unwrap_or(now_us);
    let charge_time_us = hold.map_or(own_time_us, |hold| hold.admit_us);
    Ok(Submission {
        tenant: caller.tenant.clone(),
        fingerprint,
        quotes: quotes(book, &event, hold, charge_time_us),
        event,
        charge_time_us,
        recorded_at_us: now_us,
        api_key_id: hold
            .map_or(&caller.api_key_id, |hold| &hold.owner.api_key_id)
            .clone(),
    })
}

/// What an event leaves open is as the call was admitted, so that its usage counts where it was held.
fn take_over(event: &mut Event, names_team: bool, hold: &Hold) {
    if !names_team {
        event.team_id.clone_from(&hold.owner.team_id);
    }
    if event.session_id.is_empty() {
        event.session_id.clone_from(&hold.owner.session_id);
    }
}

/// Whether an event is of the call that was admitted.
fn agree(event: &Event, names_team: bool, hold: &Hold) -> Result<(), Error> {
    let owner = &hold.owner;
    if names_team && event.team_id != owner.team_id {
        return Err(Error::ReservationMismatch("team_id"));
    }
    if event.user_id != owner.user_id {
        return Err(Error::ReservationMismatch("user_id"));
    }
    if !event.session_id.is_empty() && event.session_id != owner.session_id {
        return Err(Error::ReservationMismatch("session_id"));
    }
    Ok(())
}

/// Spells the provider as OpenTelemetry does. A name that is neither known nor in the tenant's
/// price book is refused: it is more likely a slip than a provider, and could never be priced.
fn canonical_provider(book: &TenantBook, event: &mut Event) -> Result<Option<Provider>, Error> {
    if event.provider.is_empty() {
        // The check of the whole event names it.
        return Ok(None);
    }
    if let Some(provider) = Provider::parse(&event.provider) {
        event.provider = provider.as_str().to_owned();
        return Ok(Some(provider));
    }
    if book.knows_provider(&event.provider) {
        return Ok(None);
    }
    Err(Error::UnknownProvider("provider", event.provider.clone()))
}

/// The name under which a provider is known, by OpenTelemetry or by the tenant's price book; none if it
/// is not.
pub(crate) fn canonical_name(book: &TenantBook, name: &str) -> Option<String> {
    match Provider::parse(name) {
        Some(provider) => Some(provider.as_str().to_owned()),
        None => book.knows_provider(name).then(|| name.to_owned()),
    }
}

/// Fills in what the provider's documents say. What the caller said itself stands.
fn fill(event: &mut Event, known: Option<Provider>, usage: &ProviderUsage) -> Result<(), Error> {
    let provider = if usage.provider.is_empty() {
        known.ok_or_else(|| Error::UnreadProvider(event.provider.clone()))?
    } else {
        Provider::parse(&usage.provider)
            .ok_or_else(|| Error::UnreadProvider(usage.provider.clone()))?
    };
    let documents: Vec<&str> = usage.documents.iter().map(String::as_str).collect();
    let Normalized {
        lines,
        service_tier,
        inference_region,
        response_id,
        created_us,
        stop_reason,
    } = provider::normalize(&Response {
        provider,
        api: &usage.api,
        model: &usage.model,
        documents: &documents,
        streamed: usage.streamed,
    })?;
    event.lines = lines;
    for (field, found) in [
        (&mut event.event_id, response_id),
        (&mut event.service_tier, service_tier),
        (&mut event.inference_region, inference_region),
        (&mut event.stop_reason, stop_reason),
    ] {
        if field.is_empty() {
            *field = found.unwrap_or_default();
        }
    }
    event.request_time_us = event.request_time_us.or(created_us);
    Ok(())
}

/// Prices every line at its charge time. A line that cannot be priced is never a reason to refuse: the price book may have changed since
/// the event was first recorded, and a retry must find its first answer.
/// What was admitted is priced by the version that its hold pins.
fn quotes(
    book: &TenantBook,
    event: &Event,
    hold: Option<&Hold>,
    charge_time_us: i64,
) -> Vec<Option<Quote>> {
    let provider = &event.provider;
    let tier = ServiceTier::served(provider, &event.service_tier);
    let pinned = |line: &Line| {
        let hold = hold.filter(|hold| hold.provider == *provider && hold.model == line.model)?;
        let version = hold.price_version?;
        book.pinned(provider, &line.model, hold.admit_us, version)
    };
    let lines = event.lines.iter();
    lines
        .map(|line| match pinned(line) {
            Some(price) => quote(price, line, tier).ok(),
            None => book.quote(provider, tier, line, charge_time_us),
        })
        .collect()
}
