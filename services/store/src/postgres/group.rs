//! A group of events: one statement that writes it whole or not at all. What is in its way (a key that
//! is taken, a reservation that is settled, a month that is sealed) is found out by its error, left out, and the statement made anew.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::postgres::PgConnection;
use sqlx::{Acquire as _, Row as _};
use tokenmeter_model::event::Fingerprint;
use tokenmeter_model::totals::Totals;

use super::failure::Failure;
use super::read;
use super::records::{Record, Records, Types};
use crate::columns::{self, NewLine, Values as _};
use crate::fault::{Planted, is_planted};
use crate::ledger::{Error, Outcome, Recorded, Submission};
use crate::settlements::{self, Id, key, reservation};
use crate::sums::{Batch, Key};

/// What stands under a key.
#[derive(Debug, Clone, Copy)]
struct Standing {
    fingerprint: Fingerprint,
    position: i64,
    charge_time_us: i64,
}

/// What becomes of a submission, as far as is known.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// It is to be recorded.
    New,
    /// It has the key of another of the group, which comes before it.
    Twin { first: usize },
    /// Its key is taken.
    Stands(Standing),
    /// It is charged at a time that is sealed.
    TooOld,
    /// Another event has its reservation: see [`Plan::settled`].
    Settled,
}

/// A group and what becomes of each in it.
pub(super) struct Plan<'a> {
    submissions: &'a [&'a Submission],
    /// Where each one's first line is, counted from the transaction's first position.
    offsets: Vec<i64>,
    /// All, in order of key: keys are taken in one order by everybody.
    sorted: Vec<usize>,
    places: Vec<Place>,
    /// The events that have the reservations of those that are [`Place::Settled`].
    settled: HashMap<usize, String>,
    /// The earliest charge time that is accepted.
    oldest_us: i64,
}

impl<'a> Plan<'a> {
    /// As if every key were free.
    pub(super) fn new(submissions: &'a [&'a Submission]) -> Self {
        let mut offsets = Vec::with_capacity(submissions.len());
        let mut lines = 1;
        for submission in submissions {
            offsets.push(lines);
            lines += i64::try_from(submission.event.lines.len()).unwrap_or(1);
        }
        let mut sorted: Vec<usize> = (0..submissions.len()).collect();
        sorted.sort_by_key(|&index| key(submissions[index]));
        let mut places = vec![Place::New; submissions.len()];
        // The sort is stable: of several with one key, the first to come is the first here.
        let mut first = 0;
        for pair in 1..sorted.len() {
            if key(submissions[sorted[first]]) == key(submissions[sorted[pair]]) {
                places[sorted[pair]] = Place::Twin {
                    first: sorted[first],
                };
            } else {
                first = pair;
            }
        }
        Self {
            submissions,
            offsets,
            sorted,
            places,
            settled: HashMap::new(),
            oldest_us: 0,
        }
    }

    fn is_new(&self, index: usize) -> bool {
        matches!(self.places[index], Place::New)
    }

    /// Whether nothing is to be recorded.
    pub(super) fn is_empty(&self) -> bool {
        !is_planted(Planted::RecordRetries)
            && self.places.iter().all(|place| !matches!(place, Place::New))
    }

    /// The charge times of what is to be recorded.
    pub(super) fn times_us(&self) -> impl Iterator<Item = i64> {
        let new = (0..self.submissions.len()).filter(|&index| self.is_new(index));
        new.map(|index| self.submissions[index].charge_time_us)
    }

    /// Leaves out what has a key that stands; answers whether there was any.
    pub(super) async fn leave_out_standing(
        &mut self,
        connection: &mut PgConnection,
    ) -> Result<bool, Failure> {
        let new = || self.sorted.iter().filter(|&&index| self.is_new(index));
        let keys: Vec<_> = new().map(|&index| key(self.submissions[index])).collect();
        let (tenants, ids): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
        let rows = sqlx::query(include_str!("queries/find_keys.sql"))
            .bind(tenants)
            .bind(ids)
            .fetch_all(connection)
            .await?;
        let mut standing = HashMap::with_capacity(rows.len());
        for row in &rows {
            let id: (&str, &str) = (row.try_get("tenant_id")?, row.try_get("event_id")?);
            let fingerprint: &[u8] = row.try_get("fingerprint")?;
            let stands = Standing {
                fingerprint: fingerprint
                    .try_into()
                    .map_err(|_| Failure::Corrupt("a fingerprint of another length".into()))?,
                position: row.try_get("position")?,
                charge_time_us: row.try_get("charge_time")?,
            };
            standing.insert(id, stands);
        }
        for index in 0..self.submissions.len() {
            if self.is_new(index)
                && let Some(stands) = standing.get(&key(self.submissions[index]))
            {
                self.places[index] = Place::Stands(*stands);
            }
        }
        Ok(!rows.is_empty())
    }

    /// Leaves out what is charged at a time that is sealed; answers whether there was any.
    pub(super) async fn leave_out_sealed(
        &mut self,
        connection: &mut PgConnection,
    ) -> Result<bool, Failure> {
        self.oldest_us = sealed_before(connection).await?;
        let mut any = false;
        for (place, submission) in self.places.iter_mut().zip(self.submissions) {
            let kept = submission.charge_time_us >= self.oldest_us;
            if kept || matches!(place, Place::Stands(_) | Place::TooOld) {
                continue;
            }
            any |= matches!(place, Place::New);
            *place = Place::TooOld;
        }
        // Those that come after one that is out may have its key, or its reservation, now.
        if any {
            self.arrange(HashMap::new());
        }
        Ok(any)
    }

    /// Leaves out what names a reservation that another event has.
    pub(super) async fn leave_out_settled(
        &mut self,
        connection: &mut PgConnection,
    ) -> Result<(), Failure> {
        // An event that stands has its answer, whatever its reservation.
        self.leave_out_standing(connection).await?;
        let group = || self.submissions.iter().copied().enumerate();
        let open = || group().filter(|(index, _)| !matches!(self.places[*index], Place::TooOld));
        let named: HashSet<_> = open().filter_map(|(_, one)| reservation(one)).collect();
        let (tenants, ids): (Vec<_>, Vec<_>) = named.into_iter().unzip();
        let rows = sqlx::query(include_str!("queries/find_settlements.sql"))
            .bind(tenants)
            .bind(ids)
            .fetch_all(connection)
            .await?;
        let mut settled = HashMap::with_capacity(rows.len());
        for row in &rows {
            let id: (&str, &str) = (row.try_get("tenant_id")?, row.try_get("reservation_id")?);
            settled.insert(id, row.try_get("event_id")?);
        }
        let stands = |index: &usize| matches!(self.places[*index], Place::Stands(_));
        let standing = group().filter(|(index, _)| stands(index));
        let standing = standing.map(|(_, one)| key(one)).collect();
        let refused = settlements::refused(open(), standing, settled);
        self.arrange(refused);
        Ok(())
    }

    /// Finds the places of those that neither stand nor are too old anew, in their order: `refused`
    /// are out, and of several with one key the first of the others is to be recorded.
    fn arrange(&mut self, refused: HashMap<usize, String>) {
        let mut firsts = HashMap::with_capacity(self.places.len());
        for (index, place) in self.places.iter_mut().enumerate() {
            if matches!(place, Place::TooOld) {
                continue;
            }
            if refused.contains_key(&index) {
                *place = Place::Settled;
                continue;
            }
            let first = *firsts.entry(key(self.submissions[index])).or_insert(index);
            if !matches!(place, Place::Stands(_)) {
                *place = match first == index {
                    true => Place::New,
                    false => Place::Twin { first },
                };
            }
        }
        self.settled = refused;
    }

    /// Writes what is to be recorded; answers what its positions are counted from, and the last one.
    pub(super) async fn write(
        &self,
        connection: &mut PgConnection,
        types: Types,
    ) -> Result<(i64, i64), Failure> {
        let mut writing = Writing::new(types);
        for &index in self.sorted.iter().filter(|&&index| self.is_new(index)) {
            writing.key(self.submissions[index], self.offsets[index]);
        }
        writing.settlements(self.settlements());
        for (index, submission) in self.submissions.iter().enumerate() {
            if self.is_new(index) || is_planted(Planted::RecordRetries) {
                writing.event(submission, self.offsets[index]);
            }
        }
        if is_planted(Planted::AnswerWithoutCommit) {
            // Only dropped, it would be rolled back when the connection is next used, and hold up other
            // nodes until then.
            let mut transaction = connection.begin().await?;
            let written = writing.execute(&mut transaction).await;
            transaction.rollback().await?;
            return written;
        }
        writing.execute(connection).await
    }

    /// The reservations of what is to be recorded, in order: they are taken in one order by everybody.
    fn settlements(&self) -> Vec<(Id<'a>, &'a str, i64)> {
        let new = (0..self.submissions.len()).filter(|&index| self.is_new(index));
        let mut settlements: Vec<_> = new
            .filter_map(|index| {
                let submission = self.submissions[index];
                let event_id = submission.event.event_id.as_str();
                Some((reservation(submission)?, event_id, self.offsets[index]))
            })
            .collect();
        settlements.sort_unstable();
        settlements
    }

    /// What became of each, when those to be recorded are, at positions counted from `start`.
    pub(super) async fn outcomes(
        self,
        connection: &mut PgConnection,
        start: i64,
    ) -> Result<Vec<Outcome>, Failure> {
        let standing: Vec<_> = (0..self.places.len())
            .map(|index| self.standing(index, start))
            .collect();
        let firsts = self.first_records(connection, &standing).await?;
        let mut oldest_us = self.oldest_us;
        if self.places.iter().any(|place| !matches!(place, Place::New)) {
            oldest_us = sealed_before(connection).await?;
        }
        let mut outcomes = Vec::with_capacity(self.places.len());
        for (index, submission) in self.submissions.iter().enumerate() {
            outcomes.push(match (self.places[index], standing[index]) {
                (Place::New, _) => Outcome::Recorded {
                    position: start + self.offsets[index],
                },
                (Place::Settled, _) => Outcome::ReservationSettled {
                    event_id: self.settled.get(&index).cloned().unwrap_or_default(),
                },
                (_, None) => Outcome::TooOld { oldest_us },
                _ if submission.charge_time_us < oldest_us => Outcome::TooOld { oldest_us },
                (_, Some(stands)) => {
                    let first = firsts.get(&stands.position).cloned();
                    match first.filter(|_| stands.charge_time_us >= oldest_us) {
                        Some(first) if stands.fingerprint == submission.fingerprint => {
                            Outcome::Duplicate(Box::new(first))
                        }
                        Some(first) => Outcome::Conflict(Box::new(first)),
                        // Its lines were dropped: keys outlive them.
                        None => {
                            oldest_us = sealed_before(connection).await?;
                            if stands.charge_time_us >= oldest_us {
                                return Err(Failure::Corrupt("a key has no lines".into()));
                            }
                            Outcome::TooOld { oldest_us }
                        }
                    }
                }
            });
        }
        Ok(outcomes)
    }

    /// How those that stand were first recorded, by position: no two tenants share one.
    async fn first_records(
        &self,
        connection: &mut PgConnection,
        standing: &[Option<Standing>],
    ) -> Result<HashMap<i64, Recorded>, Failure> {
        let mut wanted: BTreeMap<&str, BTreeMap<i64, i64>> = BTreeMap::new();
        for (submission, stands) in self.submissions.iter().zip(standing) {
            if let Some(stands) = stands {
                let of_tenant = wanted.entry(submission.tenant.as_str()).or_default();
                of_tenant.insert(stands.position, stands.charge_time_us);
            }
        }
        let mut firsts = HashMap::new();
        for (tenant, places) in wanted {
            let places: Vec<_> = places.into_iter().collect();
            firsts.extend(read::first_records(connection, tenant, &places).await?);
        }
        Ok(firsts)
    }

    /// What stands under a submission's key, if that is not itself.
    fn standing(&self, index: usize, start: i64) -> Option<Standing> {
        match self.places[index] {
            Place::New | Place::TooOld | Place::Settled => None,
            Place::Stands(standing) => Some(standing),
            Place::Twin { first } => match self.places[first] {
                Place::New => Some(Standing {
                    fingerprint: self.submissions[first].fingerprint,
                    position: start + self.offsets[first],
                    charge_time_us: self.submissions[first].charge_time_us,
                }),
                Place::Stands(standing) => Some(standing),
                Place::Twin { .. } | Place::TooOld | Place::Settled => None,
            },
        }
    }
}

/// The first instant of what is not sealed.
pub(super) async fn sealed_before(connection: &mut PgConnection) -> Result<i64, Failure> {
    let sealed = sqlx::query_scalar("SELECT sealed_before FROM ledger_state WHERE id = 1");
    Ok(sealed.fetch_one(connection).await?)
}

/// Takes a lock that every group takes, and gives it back.
pub(super) async fn check(connection: &mut PgConnection) -> Result<(), Failure> {
    sqlx::query("SELECT FROM ledger_state WHERE id = 1 FOR SHARE")
        .execute(connection)
        .await?;
    Ok(())
}

/// What a transaction writes for a tenant.
struct Commit {
    first: i64,
    last: i64,
    first_us: i64,
    last_us: i64,
}

/// What one execution of the statement writes.
pub(super) struct Writing<'a> {
    types: Types,
    keys: Records,
    settlements: Records,
    lines: Records,
    sums: Batch<'a>,
    commits: BTreeMap<&'a str, Commit>,
    last: i64,
}

impl<'a> Writing<'a> {
    pub(super) fn new(types: Types) -> Self {
        Self {
            types,
            keys: Records::new(types.key),
            settlements: Records::new(types.settlement),
            lines: Records::new(types.line),
            sums: Batch::default(),
            commits: BTreeMap::new(),
            last: 0,
        }
    }

    fn key(&mut self, submission: &Submission, offset: i64) {
        let (tenant, event_id) = key(submission);
        self.keys.row(|row| {
            row.text(tenant).text(event_id);
            row.bytes(&submission.fingerprint)
                .number(Some(offset))
                .number(Some(submission.charge_time_us));
        });
    }

    fn settlements(&mut self, settlements: Vec<(Id<'_>, &str, i64)>) {
        for ((tenant, reservation), event_id, offset) in settlements {
            self.settlements.row(|row| {
                row.text(tenant)
                    .text(reservation)
                    .text(event_id)
                    .number(Some(offset));
            });
        }
    }

    fn event(&mut self, submission: &'a Submission, offset: i64) {
        for (index, position) in (0..submission.event.lines.len()).zip(offset..) {
            let line = NewLine {
                position,
                index,
                submission,
            };
            self.lines.row(|row| columns::bind(&line, row));
            self.line_at(
                submission.tenant.as_str(),
                position,
                submission.charge_time_us,
            );
        }
        self.sums.add_event(submission);
    }

    /// A line of a tenant is written at a position, by this statement or beside it.
    pub(super) fn line_at(&mut self, tenant: &'a str, position: i64, charge_time_us: i64) {
        self.last = self.last.max(position);
        let commit = self.commits.entry(tenant).or_insert(Commit {
            first: position,
            last: position,
            first_us: charge_time_us,
            last_us: charge_time_us,
        });
        commit.last = position;
        commit.first_us = commit.first_us.min(charge_time_us);
        commit.last_us = commit.last_us.max(charge_time_us);
    }

    /// What is added to totals.
    pub(super) fn sums(&mut self) -> &mut Batch<'a> {
        &mut self.sums
    }

    /// Writes it; answers what its positions are counted from, and the last one.
    pub(super) async fn execute(
        self,
        connection: &mut PgConnection,
    ) -> Result<(i64, i64), Failure> {
        let earliest_us = self.commits.values().map(|one| one.first_us).min();
        let mut commits = Records::new(self.types.commit);
        for (tenant, commit) in &self.commits {
            commits.row(|row| {
                row.text(tenant)
                    .number(Some(commit.first))
                    .number(Some(commit.last))
                    .number(Some(commit.first_us))
                    .number(Some(commit.last_us));
            });
        }
        let sums = match is_planted(Planted::SkipTotals) {
            true => Records::new(self.types.sums),
            false => in_lock_order(self.sums, self.types)?,
        };
        let start: i64 = sqlx::query_scalar(include_str!("queries/record.sql"))
            .bind(self.keys)
            .bind(self.lines)
            .bind(sums)
            .bind(commits)
            .bind(earliest_us.unwrap_or(i64::MAX))
            .bind(self.settlements)
            .fetch_one(connection)
            .await?;
        Ok((start, start + self.last))
    }
}

/// About how many bytes a row of sums takes.
const SUMS_BYTES: usize = 600;

/// The order in which totals are locked: those that the fewest add to first, so that the others are
/// locked for the shortest time; by key within a scope.
fn in_lock_order(sums: Batch<'_>, types: Types) -> Result<Records, Error> {
    let rank = |(_, scope, ..): &Key<'_>| match *scope {
        "session" => 0,
        "user" => 1,
        "team" => 2,
        _ => 3,
    };
    let mut rows = sums.rows()?;
    rows.sort_by_key(|(key, _)| rank(key));
    let mut records = Records::of_size(types.sums, SUMS_BYTES * rows.len());
    for (key, totals) in &rows {
        records.row(|row| bind_sums(key, totals, row));
    }
    Ok(records)
}

fn bind_sums((tenant, scope, subject, bucket): &Key<'_>, totals: &Totals, row: &mut Record<'_>) {
    row.text(tenant)
        .text(scope)
        .text(subject)
        .number(Some(*bucket));
    for sum in totals.sums() {
        row.number(Some(sum));
    }
    row.number(Some(totals.updated_at_us));
}
