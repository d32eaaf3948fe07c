//! The log: rows of `usage_lines` by position, put together to what happened.
//!
//! An entry is the contiguous rows that one step wrote: an event's lines, a void's, or a run's new
//! prices of one event. There is no index for it: positions are the rowid, and a range of them is
//! read whoever wrote there.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use tokenmeter_model::bounds::MAX_LINES;
use tokenmeter_model::price::Quote;

use super::read::by_position;
use super::unavailable;
use crate::ledger::log::{Change, Entry, Page};
use crate::ledger::{Error, Recorded, Voided};
use crate::rows::Row as _;
use crate::rows::events::{self, add_quote};

/// Rows that a page is made of at most, so that its memory is bounded however long the range is.
const MAX_ROWS: usize = 256;

/// One page of a tenant's log, from one snapshot.
pub(super) async fn page(
    pool: &SqlitePool,
    tenant: &str,
    after: i64,
    positions: i64,
) -> Result<Page, Error> {
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    let last: i64 = sqlx::query_scalar("SELECT last_position FROM ledger_state WHERE id = 1")
        .fetch_one(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    let end = after.saturating_add(positions.max(1)).min(last);
    if end <= after {
        return Ok(Page {
            entries: Vec::new(),
            through: after,
        });
    }
    // What begins in the range may end past it, by less than the lines of one event.
    let rows = sqlx::query(include_str!("queries/log.sql"))
        .bind(tenant)
        .bind(after)
        .bind(end + small(MAX_LINES))
        .bind(small(MAX_ROWS))
        .fetch_all(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    let full = rows.len() == MAX_ROWS;
    let mut groups = group(rows)?;
    groups.retain(|group| group.first <= end);
    let mut through = groups.last().map_or(end, |last| last.last.max(end));
    // The last of a full page may go on past it; it comes first in the next one.
    if full && groups.len() > 1 {
        groups.pop();
        through = groups.last().map_or(through, |last| last.last);
    }
    let entries = read(&mut snapshot, groups).await?;
    Ok(Page { entries, through })
}

/// The rows of one entry.
struct Group {
    first: i64,
    last: i64,
    rows: Vec<SqliteRow>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Usage,
    Void,
    Reprice,
}

/// What tells whether a row goes on with the entry of the row before.
struct Key {
    position: i64,
    kind: Kind,
    line: i64,
    of_position: Option<i64>,
    event_id: String,
    correction: Option<String>,
}

impl Key {
    fn of(row: &SqliteRow) -> Result<Self, Error> {
        let kind: &str = row.value("kind")?;
        Ok(Self {
            kind: match kind {
                "usage" => Kind::Usage,
                "void" => Kind::Void,
                "reprice" => Kind::Reprice,
                other => return Err(Error::Corrupt(format!("kind {other:.32}"))),
            },
            position: row.value("position")?,
            line: row.value("line")?,
            of_position: row.value("of_position")?,
            event_id: row.value("event_id")?,
            correction: row.value("correction")?,
        })
    }

    /// Lines of an event ascend, so that one that does not begins another entry.
    fn follows(&self, before: &Self) -> bool {
        self.position == before.position + 1
            && self.kind == before.kind
            && self.line > before.line
            && self.of_position.is_some() == before.of_position.is_some()
            && self.event_id == before.event_id
            && self.correction == before.correction
    }
}

fn group(rows: Vec<SqliteRow>) -> Result<Vec<Group>, Error> {
    let mut groups: Vec<Group> = Vec::new();
    let mut before: Option<Key> = None;
    for row in rows {
        let key = Key::of(&row)?;
        match (groups.last_mut(), &before) {
            (Some(group), Some(before)) if key.follows(before) => {
                group.last = key.position;
                group.rows.push(row);
            }
            _ => groups.push(Group {
                first: key.position,
                last: key.position,
                rows: vec![row],
                kind: key.kind,
            }),
        }
        before = Some(key);
    }
    Ok(groups)
}

/// Makes entries of rows; corrections are read together with the events that they correct.
async fn read(
    connection: &mut SqliteConnection,
    groups: Vec<Group>,
) -> Result<Vec<Arc<Entry>>, Error> {
    let mut corrected = Vec::new();
    for group in groups.iter().filter(|group| group.kind != Kind::Usage) {
        let (first, lines) = corrects(group)?;
        corrected.extend(first..first + lines);
    }
    corrected.sort_unstable();
    corrected.dedup();
    let past = Past::read(connection, &corrected).await?;
    groups
        .into_iter()
        .map(|group| {
            let change = match group.kind {
                Kind::Usage => Change::Recorded(events::event(&group.rows)?),
                Kind::Void => Change::Voided(past.event(corrects(&group)?.0, group.last)?),
                Kind::Reprice => repriced(&group, &past)?,
            };
            Ok(Arc::new(Entry {
                position: group.last,
                change,
            }))
        })
        .collect()
}

/// The first position and the number of lines of the event that a correction corrects.
fn corrects(group: &Group) -> Result<(i64, i64), Error> {
    let row = first_row(group)?;
    let of: i64 = row.value("of_position")?;
    let line: i64 = row.value("line")?;
    let lines: i64 = row.value("line_count")?;
    if !(1..=small(MAX_LINES)).contains(&lines) {
        return Err(Error::Corrupt(format!("an event of {lines} lines")));
    }
    Ok((of - line, lines))
}

fn first_row(group: &Group) -> Result<&SqliteRow, Error> {
    let missing = || Error::Corrupt("an entry has no row".into());
    group.rows.first().ok_or_else(missing)
}

fn repriced(group: &Group, past: &Past) -> Result<Change, Error> {
    let row = first_row(group)?;
    let run: Option<String> = row.value("correction")?;
    let first = corrects(group)?.0;
    Ok(Change::Repriced {
        event: past.event(first, group.last)?,
        previous: past.event(first, group.first - 1)?.quotes,
        reprice_id: run.unwrap_or_default(),
    })
}

/// Events by the position of their first line, with every correction.
pub(super) struct Past {
    events: HashMap<i64, Recorded>,
    /// By the line's position: where each new price was written, and its difference.
    reprices: HashMap<i64, Vec<(i64, Quote)>>,
    /// By the first line's position: where the void was written, and what it says.
    voids: HashMap<i64, (i64, Voided)>,
}

impl Past {
    /// Reads the events that have lines at these positions, all lines of each.
    pub(super) async fn read(
        connection: &mut SqliteConnection,
        positions: &[i64],
    ) -> Result<Self, Error> {
        let mut events = HashMap::new();
        let rows = by_position(connection, "position", positions).await?;
        for group in group(rows)? {
            events.insert(group.first, events::event(&group.rows)?);
        }
        let mut reprices: HashMap<i64, Vec<(i64, Quote)>> = HashMap::new();
        let mut voids = HashMap::new();
        for row in by_position(connection, "of_position", positions).await? {
            let key = Key::of(&row)?;
            let Some(of) = key.of_position else { continue };
            if key.kind == Kind::Void && key.line == 0 {
                let voided = Voided {
                    at_us: row.value("recorded_at")?,
                    reason: key.correction.unwrap_or_default(),
                };
                voids.insert(of, (key.position, voided));
            } else if key.kind == Kind::Reprice
                && let Some(quote) = events::quote(&row)?
            {
                reprices.entry(of).or_default().push((key.position, quote));
            }
        }
        Ok(Self {
            events,
            reprices,
            voids,
        })
    }

    /// An event as it stood right after a position.
    pub(super) fn event(&self, first: i64, at: i64) -> Result<Recorded, Error> {
        let missing = || Error::Corrupt("a correction of a line that is gone".into());
        let mut event = self.events.get(&first).ok_or_else(missing)?.clone();
        for (quote, position) in event.quotes.iter_mut().zip(first..) {
            let all = self.reprices.get(&position).into_iter().flatten();
            for (_, change) in all.filter(|(written, _)| *written <= at) {
                add_quote(quote.get_or_insert_default(), change);
            }
        }
        let void = self.voids.get(&first);
        event.voided = void
            .filter(|(written, _)| *written <= at)
            .map(|(_, voided)| voided.clone());
        Ok(event)
    }
}

/// A bound as SQLite counts.
fn small(bound: usize) -> i64 {
    i64::try_from(bound).unwrap_or(i64::MAX)
}
