//! What a group of events writes: statements with their values, bound before or while SQLite is at
//! something else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sqlx::sqlite::SqliteConnection;
use tokenmeter_model::event::FINGERPRINT_BYTES;

use super::insert::{Bound, Insert};
use super::{retention, totals, unavailable};
use crate::columns::{self, NewLine, Values as _};
use crate::ledger::{Error, Submission};
use crate::rows::Row as _;
use crate::settlements::{self, key, reservation};
use crate::sums::Batch;

/// The inserts of a group.
pub(super) struct Inserts {
    keys: Insert,
    settlements: Insert,
    lines: Insert,
    pub(super) totals: Insert,
}

impl Default for Inserts {
    fn default() -> Self {
        Self {
            keys: Insert::new(
                "event_keys",
                &["tenant_id", "event_id", "fingerprint", "position"],
                "ON CONFLICT DO NOTHING",
            ),
            settlements: Insert::new(
                "settlements",
                &["tenant_id", "reservation_id", "event_id", "position"],
                "ON CONFLICT DO NOTHING",
            ),
            lines: Insert::new("usage_lines", columns::COLUMNS, ""),
            totals: totals::upsert(),
        }
    }
}

/// A group bound ahead of its turn, as if every key were free.
pub(super) struct Prepared {
    /// The position that it was numbered from.
    pub(super) last: i64,
    pub(super) keys: Bound,
    pub(super) rows: Bound,
    pub(super) sums: Sums<'static>,
}

/// What a group adds to totals.
pub(super) enum Sums<'a> {
    /// Added up, to be bound while SQLite writes the lines.
    Gathered(Batch<'a>),
    /// Bound already.
    Bound(Bound),
}

impl Sums<'_> {
    /// Binds what is not bound yet.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when a sum passes 64 bits.
    pub(super) fn bind(self, upsert: &Insert) -> Result<Bound, Error> {
        match self {
            Self::Gathered(batch) => totals::bind(batch, upsert),
            Self::Bound(bound) => Ok(bound),
        }
    }
}

/// Binds everything of a group that follows the position `last`.
pub(super) fn prepare(
    inserts: &Inserts,
    last: i64,
    batches: &[Arc<[Submission]>],
) -> Result<Prepared, Error> {
    let submissions = batches.iter().flat_map(|batch| batch.iter());
    let (numbered, _) = number(submissions, last);
    let keys = bind_keys(inserts, &numbered)?;
    let (rows, sums) = bind_rest(inserts, numbered.iter())?;
    Ok(Prepared {
        last,
        keys,
        rows,
        sums: Sums::Bound(sums.bind(&inserts.totals)?),
    })
}

/// Positions that an event takes: one a line, at most 16.
pub(super) fn lines(submission: &Submission) -> i64 {
    i64::try_from(submission.event.lines.len()).unwrap_or(1)
}

/// Gives every submission the position of its first line; answers the last position, too.
pub(super) fn number<'a>(
    submissions: impl Iterator<Item = &'a Submission>,
    mut last: i64,
) -> (Vec<(&'a Submission, i64)>, i64) {
    let mut numbered = Vec::with_capacity(submissions.size_hint().0);
    for submission in submissions {
        numbered.push((submission, last + 1));
        last += lines(submission);
    }
    (numbered, last)
}

/// Binds the keys of these submissions.
pub(super) fn bind_keys(
    inserts: &Inserts,
    numbered: &[(&Submission, i64)],
) -> Result<Bound, Error> {
    inserts
        .keys
        .bind(numbered, |(submission, position), row| {
            row.text(submission.tenant.as_str())
                .text(&submission.event.event_id)
                .push(submission.fingerprint.to_vec())
                .push(*position);
        })
        .map_err(unavailable)
}

/// Binds the lines of these submissions and adds up what they add to totals.
pub(super) fn bind_rest<'a>(
    inserts: &Inserts,
    numbered: impl Iterator<Item = &'a (&'a Submission, i64)>,
) -> Result<(Bound, Sums<'a>), Error> {
    let mut rows = Vec::new();
    let mut sums = Batch::default();
    for (submission, position) in numbered {
        add_submission(submission, *position, &mut rows, &mut sums);
    }
    let rows = inserts.lines.bind(&rows, columns::bind);
    Ok((rows.map_err(unavailable)?, Sums::Gathered(sums)))
}

fn add_submission<'a>(
    submission: &'a Submission,
    position: i64,
    rows: &mut Vec<NewLine<'a>>,
    sums: &mut Batch<'a>,
) {
    for (index, position) in (0..submission.event.lines.len()).zip(position..) {
        rows.push(NewLine {
            position,
            index,
            submission,
        });
    }
    sums.add_event(submission);
}

/// Whether a submission's key was free.
pub(super) enum Key {
    New,
    Stands { position: i64, same: bool },
}

/// Takes the keys that are free. The common case, all free, is one statement.
pub(super) async fn take_keys(
    connection: &mut SqliteConnection,
    keys: Bound,
    numbered: &[(&Submission, i64)],
) -> Result<Vec<Key>, Error> {
    let taken = keys.execute(connection).await.map_err(unavailable)?;
    if usize::try_from(taken) == Ok(numbered.len()) {
        return Ok(numbered.iter().map(|_| Key::New).collect());
    }
    let standing = find_keys(connection, numbered).await?;
    numbered
        .iter()
        .map(|(submission, position)| {
            let id = (
                submission.tenant.as_str().to_owned(),
                submission.event.event_id.clone(),
            );
            let (fingerprint, at) = standing
                .get(&id)
                .ok_or_else(|| Error::Corrupt("a key that was taken is gone".into()))?;
            Ok(if at == position {
                Key::New
            } else {
                Key::Stands {
                    position: *at,
                    same: fingerprint[..] == submission.fingerprint[..],
                }
            })
        })
        .collect()
}

type Standing = HashMap<(String, String), (Vec<u8>, i64)>;

async fn find_keys(
    connection: &mut SqliteConnection,
    numbered: &[(&Submission, i64)],
) -> Result<Standing, Error> {
    let wanted: Vec<_> = numbered
        .iter()
        .map(|(submission, _)| {
            (
                submission.tenant.as_str(),
                submission.event.event_id.as_str(),
            )
        })
        .collect();
    let wanted = serde_json::to_string(&wanted).map_err(|e| Error::Corrupt(e.to_string()))?;
    let rows = sqlx::query(include_str!("queries/find_keys.sql"))
        .bind(wanted)
        .fetch_all(connection)
        .await
        .map_err(unavailable)?;
    let mut standing = HashMap::with_capacity(rows.len());
    for row in rows {
        let fingerprint: Vec<u8> = row.value("fingerprint")?;
        if fingerprint.len() != FINGERPRINT_BYTES {
            return Err(Error::Corrupt(format!(
                "a fingerprint of {} bytes",
                fingerprint.len()
            )));
        }
        standing.insert(
            (row.value("tenant_id")?, row.value("event_id")?),
            (fingerprint, row.value("position")?),
        );
    }
    Ok(standing)
}

/// Settles the reservations of those whose key was free; answers whether all of them were free, too.
pub(super) async fn settle(
    connection: &mut SqliteConnection,
    inserts: &Inserts,
    numbered: &[(&Submission, i64)],
    keys: &[Key],
) -> Result<bool, Error> {
    let new = numbered.iter().zip(keys);
    let new = new.filter(|(_, key)| matches!(key, Key::New));
    let rows: Vec<_> = new
        .filter_map(|((submission, position), _)| {
            Some((reservation(submission)?, submission, *position))
        })
        .collect();
    if rows.is_empty() {
        return Ok(true);
    }
    let bound = inserts.settlements.bind(
        &rows,
        |((tenant, reservation), submission, position), row| {
            row.text(tenant)
                .text(reservation)
                .text(&submission.event.event_id)
                .push(*position);
        },
    );
    let settled = bound.map_err(unavailable)?.execute(connection).await;
    Ok(usize::try_from(settled.map_err(unavailable)?) == Ok(rows.len()))
}

/// Which of these name a reservation that another event has, by their place, each with that event.
pub(super) async fn refused(
    connection: &mut SqliteConnection,
    submissions: &[&Submission],
) -> Result<HashMap<usize, String>, Error> {
    let oldest_us = retention::sealed_before(&mut *connection).await?;
    let group = || submissions.iter().copied().enumerate();
    let open = || group().filter(|(_, one)| one.charge_time_us >= oldest_us);
    let numbered: Vec<_> = open().map(|(_, one)| (one, 0)).collect();
    let keys = find_keys(&mut *connection, &numbered).await?;
    let stands = |one: &Submission| {
        let id = (one.tenant.as_str().to_owned(), one.event.event_id.clone());
        keys.contains_key(&id)
    };
    let standing = open().filter(|(_, one)| stands(one));
    let standing: HashSet<_> = standing.map(|(_, one)| key(one)).collect();

    let named: HashSet<_> = open().filter_map(|(_, one)| reservation(one)).collect();
    let wanted = serde_json::to_string(&named).map_err(|e| Error::Corrupt(e.to_string()))?;
    let rows = sqlx::query(include_str!("queries/find_settlements.sql"))
        .bind(wanted)
        .fetch_all(connection)
        .await
        .map_err(unavailable)?;
    let mut settled = HashMap::with_capacity(rows.len());
    for row in &rows {
        let id: (&str, &str) = (row.value("tenant_id")?, row.value("reservation_id")?);
        settled.insert(id, row.value("event_id")?);
    }
    Ok(settlements::refused(open(), standing, settled))
}
