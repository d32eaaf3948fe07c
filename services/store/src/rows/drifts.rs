//! Drift, as either backend finds and keeps it.

use tokenmeter_model::totals::Totals;

use super::Row;
use crate::ledger::Error;
use crate::ledger::reconcile::{
    Drift, DriftState, MAX_DRIFTS, Reconciled, Scope, TotalKey, is_large,
};
use crate::rows::totals::sum_columns;

/// What a comparison found.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// Fields that differ, the first [`MAX_DRIFTS`].
    pub(crate) found: Vec<Difference>,
    /// How many differ.
    pub(crate) count: i64,
    /// How many totals were compared.
    pub(crate) checked: i64,
    /// Corrections of the tenant's totals that the snapshot has seen.
    pub(crate) corrections: i64,
    /// Before when events are sealed, in microseconds since the Unix epoch: quarter-hours before it
    /// were not compared.
    pub(crate) sealed_before_us: i64,
}

/// A field of a total that differs.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    pub(crate) key: TotalKey,
    pub(crate) field: &'static str,
    pub(crate) recorded: i64,
    pub(crate) computed: i64,
}

impl Difference {
    /// What is to become of it.
    pub(crate) fn state(&self, fix: bool) -> DriftState {
        match is_large(self.recorded, self.computed) {
            true => DriftState::Flagged,
            false if fix => DriftState::Corrected,
            false => DriftState::Reported,
        }
    }

    /// What corrects it when it is added.
    pub(crate) fn missing(&self) -> i64 {
        self.computed.saturating_sub(self.recorded)
    }

    /// As a run that finds it at a time records it.
    pub(crate) fn drift(&self, reconcile_id: &str, state: DriftState, now_us: i64) -> Drift {
        Drift {
            number: 0,
            reconcile_id: reconcile_id.to_owned(),
            key: self.key.clone(),
            field: self.field.to_owned(),
            recorded: self.recorded,
            computed: self.computed,
            state,
            found_us: now_us,
            resolved_us: (state == DriftState::Corrected).then_some(now_us),
        }
    }
}

impl Compared {
    /// Adds the fields of one total that differ: a row of its subject and bucket, by how much each sum
    /// is too small, and each sum as it is recorded.
    pub(crate) fn add(&mut self, scope: Scope, row: &impl Row) -> Result<(), Error> {
        for (n, field) in Totals::SUMS.iter().enumerate() {
            let difference = row.figure(2 + n)?;
            if difference == 0 {
                continue;
            }
            self.count += 1;
            if self.found.len() < MAX_DRIFTS {
                let recorded = row.figure(2 + Totals::SUMS.len() + n)?;
                self.found.push(Difference {
                    key: TotalKey {
                        scope,
                        subject: row.value(0)?,
                        bucket: row.value(1)?,
                    },
                    field,
                    recorded,
                    computed: recorded.saturating_add(difference),
                });
            }
        }
        Ok(())
    }

    /// What the run as a whole found, from how many drifts it has recorded in each state.
    pub(crate) fn reconciled(&self, states: &[(String, i64)]) -> Reconciled {
        let count = |state: DriftState| {
            let of_state = states.iter().filter(|(name, _)| name == state.as_str());
            of_state.map(|(_, count)| count).sum()
        };
        let recorded: i64 = states.iter().map(|(_, count)| count).sum();
        Reconciled {
            totals_checked: self.checked,
            drift_count: recorded.max(self.count),
            corrected: count(DriftState::Corrected),
            flagged: count(DriftState::Flagged),
        }
    }
}

/// The statement that compares the totals of a scope: `queries/compare_totals.sql` of a backend, and
/// its figures of a line.
pub(crate) fn comparison(template: &str, scope: Scope, of_line: impl Fn(&str) -> String) -> String {
    let (subject, sealed, sealed_scope) = match scope {
        Scope::User => ("user_id", "subject", "user"),
        Scope::Team => ("team_id", "subject", "team"),
        Scope::Session => ("session_id", "subject", "session"),
        // Every line has one user, so that the users' sums are the models', too.
        Scope::Model => (
            "provider || '/' || model",
            "provider || '/' || model",
            "user",
        ),
    };
    // Lines without a team or session count for none.
    let counted = match scope {
        Scope::User | Scope::Model => "true",
        Scope::Team => "team_id <> ''",
        Scope::Session => "session_id <> ''",
    };
    let differs: Vec<String> = Totals::SUMS
        .iter()
        .map(|name| format!("d.{name} <> 0"))
        .collect();
    template
        .replace("{scope}", scope.as_str())
        .replace("{sealed_scope}", sealed_scope)
        .replace("{subject}", subject)
        .replace("{sealed}", sealed)
        .replace("{counted}", counted)
        .replace("{columns}", &sum_columns(str::to_owned))
        .replace(
            "{of_lines}",
            &sum_columns(|name| {
                format!(
                    "CAST(coalesce(sum({}), 0) AS BIGINT) AS {name}",
                    of_line(name)
                )
            }),
        )
        .replace(
            "{sums}",
            &sum_columns(|name| format!("CAST(sum({name}) AS BIGINT) AS {name}")),
        )
        .replace(
            "{negative}",
            &sum_columns(|name| format!("-{name} AS {name}")),
        )
        .replace("{differences}", &sum_columns(|name| format!("d.{name}")))
        .replace("{recorded}", &sum_columns(|name| format!("t.{name}")))
        .replace("{differs}", &differs.join(" OR "))
}

/// Reads a drift.
pub(crate) fn drift(row: &impl Row) -> Result<Drift, Error> {
    let unknown = || Error::Corrupt("a drift of an unknown scope or state".into());
    Ok(Drift {
        number: row.value("number")?,
        reconcile_id: row.value("reconcile_id")?,
        key: TotalKey {
            scope: Scope::parse(row.value("scope")?).ok_or_else(unknown)?,
            subject: row.value("subject")?,
            bucket: row.value("bucket")?,
        },
        field: row.value("field")?,
        recorded: row.value("recorded")?,
        computed: row.value("computed")?,
        state: DriftState::parse(row.value("state")?).ok_or_else(unknown)?,
        found_us: row.value("found_at")?,
        resolved_us: row.value("resolved_at")?,
    })
}
