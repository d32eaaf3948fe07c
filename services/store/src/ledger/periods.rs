//! Closed months of users: what was used in them when they were closed, and what came later.
//!
//! A figure of a period is a sum over the positions of the log: up to the one at which the period was
//! closed, and after it. So what was closed never changes, and what came later is read, not counted
//! along. Before the lines of a period are dropped, what came later is kept with it
//! ([`Periods::settle_periods`]).

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokenmeter_model::id::TenantId;
use tokenmeter_model::totals::Totals;

use super::{Error, ModelTotals, Range};

/// Models that a period keeps apart; those with the fewest tokens count in its totals only.
pub const MAX_MODELS: usize = 1_000;
/// Adjustments that are listed, the oldest.
pub const MAX_ADJUSTMENTS: usize = 100;

/// What a user used. Every figure is a sum, so that what came later can be added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Consumption {
    /// Tokens, cost, requests.
    pub totals: Totals,
    /// The same by model, most tokens first.
    pub models: Vec<ModelTotals>,
    /// Everything else.
    pub facts: Facts,
}

/// What a user did beside tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Distinct sessions with an event.
    pub sessions: i64,
    /// Events that say whether they succeeded in retrieval's terms.
    pub judged: i64,
    /// Those of them that did.
    pub judged_succeeded: i64,
    /// Events with retrieval facts.
    pub retrieval_stated: i64,
    /// Those of them where retrieval ran.
    pub retrieval_ran: i64,
    /// Cases that retrieval found.
    pub cases_retrieved: i64,
    /// Champion cases reported.
    pub champion_cases: i64,
    /// Uses of tools.
    pub tool_invocations: i64,
}

impl Consumption {
    /// These figures with what came later.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when a sum would pass 64 bits.
    pub fn plus(&self, later: &Self) -> Result<Self, Error> {
        let overflow = || Error::OutOfRange("a period's sum passes 64 bits".into());
        let mut by_name = BTreeMap::new();
        for model in self.models.iter().chain(&later.models) {
            let sum: &mut Totals = by_name.entry((&model.provider, &model.model)).or_default();
            *sum = sum.checked_add(&model.totals).ok_or_else(overflow)?;
        }
        let models = by_name.into_iter().map(|((provider, model), totals)| {
            let (provider, model) = (provider.clone(), model.clone());
            ModelTotals {
                provider,
                model,
                totals,
            }
        });
        let totals = self.totals.checked_add(&later.totals);
        Ok(Self {
            totals: totals.ok_or_else(overflow)?,
            models: ranked(models.collect()),
            facts: self.facts.plus(&later.facts),
        })
    }

    /// Sums by model, put together.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when a sum would pass 64 bits.
    pub(crate) fn of(models: Vec<ModelTotals>, facts: Facts) -> Result<Self, Error> {
        let models = Self {
            models,
            ..Self::default()
        };
        let totals = models
            .models
            .iter()
            .try_fold(Totals::default(), |sum, one| {
                sum.checked_add(&one.totals)
                    .ok_or_else(|| Error::OutOfRange("a period's sum passes 64 bits".into()))
            })?;
        Ok(Self {
            totals,
            facts,
            ..models
        })
    }

    /// As the ledger keeps it.
    pub(crate) fn to_json(&self) -> Result<String, Error> {
        let kept = Kept {
            totals: names(&self.totals),
            updated_at: self.totals.updated_at_us,
            models: ranked(self.models.clone())
                .into_iter()
                .take(MAX_MODELS)
                .map(|one| KeptModel {
                    totals: names(&one.totals),
                    updated_at: one.totals.updated_at_us,
                    provider: one.provider,
                    model: one.model,
                })
                .collect(),
            facts: self.facts,
        };
        serde_json::to_string(&kept).map_err(|error| Error::Corrupt(error.to_string()))
    }

    /// As the ledger kept it.
    pub(crate) fn from_json(text: &str) -> Result<Self, Error> {
        let kept: Kept = serde_json::from_str(text)
            .map_err(|error| Error::Corrupt(format!("a period: {error}")))?;
        let models = kept.models.into_iter().map(|one| ModelTotals {
            totals: totals(&one.totals, one.updated_at),
            provider: one.provider,
            model: one.model,
        });
        Ok(Self {
            totals: totals(&kept.totals, kept.updated_at),
            models: models.collect(),
            facts: kept.facts,
        })
    }
}

impl Facts {
    /// Counts of rows, which cannot pass 64 bits.
    fn plus(&self, later: &Self) -> Self {
        Self {
            sessions: self.sessions + later.sessions,
            judged: self.judged + later.judged,
            judged_succeeded: self.judged_succeeded + later.judged_succeeded,
            retrieval_stated: self.retrieval_stated + later.retrieval_stated,
            retrieval_ran: self.retrieval_ran + later.retrieval_ran,
            cases_retrieved: self.cases_retrieved + later.cases_retrieved,
            champion_cases: self.champion_cases + later.champion_cases,
            tool_invocations: self.tool_invocations + later.tool_invocations,
        }
    }
}

/// Models with a line, most tokens first, then by name. One all of whose events are voided has none.
fn ranked(mut models: Vec<ModelTotals>) -> Vec<ModelTotals> {
    models.retain(|one| one.totals.lines != 0);
    models.sort_by(|a, b| {
        let tokens = b.totals.total().cmp(&a.totals.total());
        tokens.then_with(|| (&a.provider, &a.model).cmp(&(&b.provider, &b.model)))
    });
    models
}

/// Figures by name, zeros left out: a later version may know more of them.
type Names = BTreeMap<String, i64>;

#[derive(Serialize, Deserialize)]
struct Kept {
    totals: Names,
    updated_at: i64,
    models: Vec<KeptModel>,
    facts: Facts,
}

#[derive(Serialize, Deserialize)]
struct KeptModel {
    provider: String,
    model: String,
    totals: Names,
    updated_at: i64,
}

fn names(totals: &Totals) -> Names {
    let named = Totals::SUMS.iter().zip(totals.sums());
    named
        .filter(|(_, sum)| *sum != 0)
        .map(|(name, sum)| ((*name).to_owned(), sum))
        .collect()
}

fn totals(names: &Names, updated_at_us: i64) -> Totals {
    let mut sums = [0; Totals::SUMS.len()];
    for (sum, name) in sums.iter_mut().zip(Totals::SUMS) {
        *sum = names.get(*name).copied().unwrap_or_default();
    }
    Totals::from_sums(sums, updated_at_us)
}

/// What changed a closed period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdjustmentKind {
    /// An event was recorded late.
    LateEvent,
    /// An event was voided.
    Void,
    /// An event was repriced.
    Reprice,
}

impl AdjustmentKind {
    /// From the kind of a row of the log.
    pub(crate) fn of_row(kind: &str) -> Option<Self> {
        match kind {
            "usage" => Some(Self::LateEvent),
            "void" => Some(Self::Void),
            "reprice" => Some(Self::Reprice),
            _ => None,
        }
    }
}

/// One change to a closed period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjustment {
    /// What it was.
    pub kind: AdjustmentKind,
    /// The event.
    pub event_id: String,
    /// The change in tokens.
    pub tokens: i64,
    /// The change in cost, in nano-USD.
    pub cost_nano_usd: i64,
    /// When it was made, in microseconds since the Unix epoch.
    pub at_us: i64,
}

/// A calendar month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Month {
    /// Its name, as `2026-07`.
    pub id: String,
    /// Its times: whole quarter-hours, as the months of every zone are.
    pub range: Range,
}

/// A closed month of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period {
    /// The month.
    pub month: Month,
    /// When it was closed, in microseconds since the Unix epoch.
    pub closed_at_us: i64,
    /// The figures when it was closed.
    pub as_closed: Consumption,
    /// The figures with all that came later.
    pub adjusted: Consumption,
    /// What came later, oldest first, the first [`MAX_ADJUSTMENTS`].
    pub adjustments: Vec<Adjustment>,
}

/// What a step of a rollover did, or in a dry run would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Closing {
    /// Users whose period was closed now.
    pub closed: i64,
    /// Users whose period had been closed before.
    pub already: i64,
    /// The last user that was looked at: the next step goes on after it. None after the last.
    pub through: Option<String>,
}

/// Which users a step of a rollover closes a month of.
#[derive(Debug, Clone, Copy)]
pub struct CloseStep<'a> {
    /// The month. Whether it is over is the caller's to know.
    pub month: &'a Month,
    /// Users after this one, in their order; empty begins.
    pub after: &'a str,
    /// Users to look at, at most.
    pub users: i64,
    /// The server's clock, in microseconds since the Unix epoch.
    pub now_us: i64,
    /// Whether to change nothing.
    pub dry_run: bool,
}

/// The months of users. Each method is of one moment.
#[async_trait]
pub trait Periods: Send + Sync + 'static {
    /// Closes a month for the next users with usage in it, in one transaction. A month that is closed
    /// already stays as it is, and so does one whose events were dropped, all or in part: what was
    /// used in it is not known any more.
    async fn close_periods(&self, tenant: &TenantId, step: CloseStep<'_>)
    -> Result<Closing, Error>;

    /// A user's closed periods, newest first, before `before` (a month's name; empty begins).
    async fn periods(
        &self,
        tenant: &TenantId,
        user_id: &str,
        before: &str,
        limit: i64,
    ) -> Result<Vec<Period>, Error>;

    /// The closed period of a user that a time is in, by its name, if it was closed by `closed_by_us`
    /// (both in microseconds since the Unix epoch).
    async fn closed_period(
        &self,
        tenant: &TenantId,
        user_id: &str,
        at_us: i64,
        closed_by_us: i64,
    ) -> Result<Option<String>, Error>;

    /// Keeps what came later with every closed period that begins before a time, in all tenants:
    /// called once nothing can be recorded before that time any more, and before what was is dropped.
    /// Answers how many periods were settled; safe to repeat.
    async fn settle_periods(&self, before_us: i64) -> Result<i64, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, input: i64) -> ModelTotals {
        ModelTotals {
            provider: "p".into(),
            model: name.into(),
            totals: Totals {
                input,
                lines: input.signum(),
                requests: input.signum(),
                updated_at_us: input.abs(),
                ..Totals::default()
            },
        }
    }

    fn consumption(models: Vec<ModelTotals>, sessions: i64) -> Consumption {
        let facts = Facts {
            sessions,
            ..Facts::default()
        };
        Consumption::of(models, facts).unwrap()
    }

    #[test]
    fn what_came_later_is_added_model_by_model() {
        let closed = consumption(vec![model("a", 10), model("b", 5)], 2);
        let later = consumption(vec![model("b", -5), model("c", 20)], -1);
        let adjusted = closed.plus(&later).unwrap();
        assert_eq!(adjusted.totals.input, 30);
        assert_eq!(adjusted.facts.sessions, 1);
        let names: Vec<_> = adjusted.models.iter().map(|one| &*one.model).collect();
        assert_eq!(
            names,
            ["c", "a"],
            "most tokens first, voided ones not at all"
        );
        assert_eq!(closed.plus(&Consumption::default()).unwrap(), closed);
    }

    #[test]
    fn what_is_kept_reads_back() {
        let closed = consumption(vec![model("b", 15), model("a", 5)], 2);
        let text = closed.to_json().unwrap();
        assert_eq!(Consumption::from_json(&text).unwrap(), closed);
        assert!(!text.contains("reasoning"), "zeros are left out: {text}");
    }

    #[test]
    fn a_period_keeps_a_bounded_number_of_models_and_all_of_their_sum() {
        let many = (1..=1_200).map(|n| model(&format!("m{n}"), n)).collect();
        let closed = consumption(many, 0);
        let kept = Consumption::from_json(&closed.to_json().unwrap()).unwrap();
        assert_eq!(kept.models.len(), MAX_MODELS);
        assert_eq!(kept.models[0].model, "m1200");
        assert_eq!(kept.totals, closed.totals);
    }
}
