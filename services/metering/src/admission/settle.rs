//! What became of holds and limits when usage was recorded (R26).
//!
//! The ledger has recorded the usage before anything here is asked: nothing here can fail it. What
//! counters cannot be told now, the sweeper tells them.

use std::sync::Arc;
use std::time::Duration;

use tokenmeter_model::event;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::item::{Item, ToolStatus};
use tokenmeter_model::limit::{Amounts, Enforcement, OvershootCause, Window, Zoned};
use tokenmeter_store::counters::{Applied, Delta, Found, Hold, HoldState, Owner, Rule, Standing};
use tokenmeter_store::fault::{Planted, is_planted};
use tokenmeter_store::ledger::items::ItemSubmission;
use tokenmeter_store::ledger::limits::Overshoot;

use super::{Admission, States, sweep};
use crate::error::Error;
use crate::service::Recorded;

/// How long a void, which is on disk, waits for how limits stand after it.
const VOID_PATIENCE: Duration = Duration::from_secs(1);

/// What recording an event did to the reservation that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// What was found.
    pub found: Found,
    /// What the event used, in every metric.
    pub used: Amounts,
    /// The limits that settled usage passes now.
    pub overshoots: Vec<Overshoot>,
}

impl Admission {
    /// Tells the counters what was recorded, and the results what became of it. `include_limits` asks
    /// how limits stand where an event names no reservation, too.
    pub(crate) async fn settle(
        &self,
        tenant: &TenantId,
        results: &mut [Result<Recorded, Error>],
        include_limits: bool,
    ) {
        let recorded = results.iter_mut().filter_map(|result| result.as_mut().ok());
        let mut told: Vec<&mut Recorded> = recorded
            .filter(|one| !one.duplicate || one.names_reservation() || include_limits)
            .collect();
        if told.is_empty() {
            return;
        }
        if let Err(error) = self.tell(tenant, &mut told, include_limits).await {
            tracing::warn!(%error, "recorded usage is counted later");
        }
        for one in told {
            if one.names_reservation() && one.settled.is_none() {
                one.settled = Some(self.foresee(tenant, one).await);
            }
        }
    }

    /// What the sweeper will find at the reservation of an event.
    async fn foresee(&self, tenant: &TenantId, one: &Recorded) -> Settled {
        let event = &one.event;
        let hold = self.counters.hold(tenant, &event.reservation_id).await;
        let found = match hold.ok().flatten() {
            Some(hold) if hold.state == HoldState::Active || hold.event_id == event.event_id => {
                Found::Settled(hold)
            }
            Some(hold) => Found::Ended(hold),
            None => Found::Unknown,
        };
        Settled {
            found,
            used: sum(one.delta().lines.iter().map(|(_, amounts)| amounts)),
            overshoots: Vec::new(),
        }
    }

    async fn tell(
        &self,
        tenant: &TenantId,
        told: &mut [&mut Recorded],
        include_limits: bool,
    ) -> Result<(), Error> {
        let calendar = self.rules.tenant(tenant).await?;
        let zoned = &calendar.zoned;
        let mut deltas = Vec::with_capacity(told.len());
        for one in told.iter() {
            let delta = one.delta();
            let asked = include_limits || one.names_reservation();
            let rules = self.rules_of(tenant, &delta, asked).await;
            deltas.push((delta, rules));
        }
        let place = self.place(tenant, zoned);
        if is_planted(Planted::LeaveToSweeper) {
            return Ok(());
        }
        let applied = self.counters.apply(place, &deltas).await?;
        for ((one, (delta, rules)), applied) in told.iter_mut().zip(deltas).zip(applied) {
            self.finish(tenant, zoned, one, (&delta, rules, applied), include_limits)
                .await;
        }
        Ok(())
    }

    /// The rules whose standings an event is told: all that apply where they are asked for, else those
    /// that are known without asking the ledger.
    async fn rules_of(&self, tenant: &TenantId, delta: &Delta, asked: bool) -> Arc<[Rule]> {
        let effective = match asked {
            false => self.rules.known(tenant, &delta.owner),
            true => match self.rules.of(tenant, &delta.owner).await {
                Ok(effective) => Some(effective),
                Err(error) => {
                    tracing::warn!(%error, "limits are not told with what was recorded");
                    None
                }
            },
        };
        let models = delta.lines.iter().map(|(model, _)| model.as_str());
        effective.map_or_else(
            || Arc::from([]),
            |effective| effective.covering(&delta.provider, models),
        )
    }

    /// Puts into a result what became of it, and takes note of overshoots.
    async fn finish(
        &self,
        tenant: &TenantId,
        zoned: &Zoned,
        one: &mut Recorded,
        (delta, rules, applied): (&Delta, Arc<[Rule]>, Applied),
        include_limits: bool,
    ) {
        let asked = include_limits || one.names_reservation();
        let mut states = States {
            rules,
            standings: applied.standings,
        };
        if asked && states.standings.is_empty() && !states.rules.is_empty() {
            let rules = Arc::clone(&states.rules);
            match self.stand(tenant, zoned, rules).await {
                Ok(known) => states = known,
                Err(error) => tracing::warn!(%error, "limits are not told with what was recorded"),
            }
        }
        if let Some(facts) = self.rules.session(tenant, &delta.owner.session_id)
            && let Some((model, _)) = delta.lines.last()
        {
            facts.used(model, one.recorded_at_us);
        }
        let event_id = &one.event.event_id;
        let overshoots = match one.duplicate {
            false => {
                let now_us = (self.clock)();
                let counts = |window: Window| {
                    window.bucket(zoned, delta.charge_time_us) >= window.open_from(zoned, now_us)
                };
                let overshoots = overshoots(event_id, delta, &applied.found, &states, counts);
                self.notes.overshoots(tenant, event_id, &overshoots);
                overshoots
            }
            true if one.names_reservation() => {
                let first = self.notes.of_event(tenant, event_id).await;
                first.unwrap_or_else(|error| {
                    tracing::warn!(%error, "overshoots are not told again");
                    Vec::new()
                })
            }
            true => Vec::new(),
        };
        one.settled = one.names_reservation().then(|| Settled {
            found: applied.found,
            used: sum(delta.lines.iter().map(|(_, amounts)| amounts)),
            overshoots,
        });
        one.states = asked.then_some(states);
    }

    /// Counts at once what a void took out, and answers how the limits stand that got it back.
    pub(crate) async fn voided(&self, tenant: &TenantId, recorded: &event::Recorded) -> States {
        let event = &recorded.event;
        let states = async {
            self.catch_up(tenant).await?;
            let owner = sweep::owner(event, &recorded.api_key_id);
            let effective = self.rules.of(tenant, &owner).await?;
            let models = event.lines.iter().map(|line| line.model.as_str());
            let rules = effective.covering(&event.provider, models);
            self.stand(tenant, &effective.tenant.zoned, rules).await
        };
        match tokio::time::timeout(VOID_PATIENCE, states).await {
            Ok(Ok(states)) => states,
            Ok(Err::<_, Error>(error)) => {
                tracing::warn!(%error, "limits are not told with what was voided");
                States::default()
            }
            // The sweeper counts it.
            Err(_) => States::default(),
        }
    }

    /// Counts the estimated tokens of tools that were recorded, in the budgets of their sessions.
    pub(crate) async fn tools(&self, tenant: &TenantId, recorded: &[&ItemSubmission]) {
        let mut deltas = Vec::new();
        for one in recorded {
            let Some(delta) = tool(one) else { continue };
            if let Some(facts) = self.rules.session(tenant, &delta.owner.session_id) {
                let tokens = delta.lines.iter().map(|(_, amounts)| amounts.output).sum();
                facts.tool(tokens, one.recorded_at_us);
            }
            deltas.push((delta, Arc::from([])));
        }
        if deltas.is_empty() {
            return;
        }
        let told = async {
            let calendar = self.rules.tenant(tenant).await?;
            let place = self.place(tenant, &calendar.zoned);
            Ok::<_, Error>(self.counters.apply(place, &deltas).await?)
        };
        if let Err(error) = told.await {
            tracing::warn!(%error, "estimates of tools are missing in budgets until those are read again");
        }
    }
}

/// What a use of a tool adds to its session's budget; none if nothing.
fn tool(submission: &ItemSubmission) -> Option<Delta> {
    let Item::Tool(tool) = &submission.item else {
        return None;
    };
    // Whoever has begun is recorded again when it ends, with its figures.
    if tool.session_id.is_empty()
        || tool.estimated_tokens == 0
        || tool.status == ToolStatus::Started
    {
        return None;
    }
    let amounts = Amounts {
        output: tool.estimated_tokens,
        ..Amounts::ZERO
    };
    Some(Delta {
        position: 0,
        charge_time_us: submission.time_us(),
        owner: Owner {
            user_id: tool.user_id.clone(),
            session_id: tool.session_id.clone(),
            ..Owner::default()
        },
        provider: String::new(),
        lines: vec![(String::new(), amounts)],
        settles: None,
        tool: true,
    })
}

impl Recorded {
    fn names_reservation(&self) -> bool {
        !self.event.reservation_id.is_empty()
    }

    fn delta(&self) -> Delta {
        let place = (self.last_position, self.api_key_id.as_str());
        sweep::delta(&self.event, &self.quotes, self.charge_time_us, place)
    }
}

fn sum<'a>(amounts: impl Iterator<Item = &'a Amounts>) -> Amounts {
    amounts.fold(Amounts::ZERO, |sum, one| sum.plus(one))
}

/// By how much an event takes limits beyond what they allow, and why. `counts` says whether its charge
/// time lies in a window of now.
fn overshoots(
    event_id: &str,
    delta: &Delta,
    found: &Found,
    states: &States,
    counts: impl Fn(Window) -> bool,
) -> Vec<Overshoot> {
    let beyond = |(rule, standing): (&Rule, &Standing)| {
        let limit = &rule.limit;
        if limit.enforcement == Enforcement::Shadow || !counts(limit.window) {
            return None;
        }
        let lines = delta.lines.iter();
        let covered = lines.filter(|(model, _)| limit.covers(&delta.provider, model));
        let added = sum(covered.map(|(_, amounts)| amounts)).of(limit.metric);
        let amount = match limit.window {
            Window::Request => added.saturating_sub(limit.amount),
            _ => added.min(standing.used.saturating_sub(limit.amount)),
        };
        (amount > 0).then(|| Overshoot {
            event_id: event_id.to_owned(),
            limit_name: limit.name.clone(),
            scope: limit.scope,
            subject: rule.subject.to_string(),
            metric: limit.metric,
            window: limit.window,
            amount,
            cause: cause(rule, found, added),
        })
    };
    states.all().filter_map(beyond).collect()
}

/// Why an event that added so much to a rule could take it beyond what it allows.
fn cause(rule: &Rule, found: &Found, added: i64) -> OvershootCause {
    let within = |hold: &Hold| added <= hold.amounts.of(rule.limit.metric);
    match found {
        _ if rule.limit.enforcement == Enforcement::RecordOverage => OvershootCause::OverageAllowed,
        Found::Settled(hold) if !within(hold) => OvershootCause::AboveHold,
        Found::Ended(hold) if hold.state == HoldState::Expired => OvershootCause::AfterExpiry,
        // One that kept to its hold finds its room taken by usage that had reserved none.
        Found::Settled(_) | Found::Ended(_) | Found::NoReservation | Found::Unknown => {
            OvershootCause::WithoutHold
        }
    }
}
