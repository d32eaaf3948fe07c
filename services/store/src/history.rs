//! What happened, out of rows of `usage_lines` in order of position.
//!
//! An entry is the contiguous rows that one step wrote: an event's lines, a void's, or a run's new
//! prices of one event.

use std::collections::HashMap;
use std::sync::Arc;

use tokenmeter_model::bounds::MAX_LINES;
use tokenmeter_model::price::Quote;

use crate::ledger::log::{Change, Entry};
use crate::ledger::{Error, Recorded, Voided};
use crate::rows::Row;
use crate::rows::events::{self, add_quote};

/// Rows that a page is made of at most, so that its memory is bounded however long the range is.
pub(crate) const MAX_ROWS: usize = 256;

/// The rows of one entry.
pub(crate) struct Group<R> {
    pub(crate) first: i64,
    pub(crate) last: i64,
    rows: Vec<R>,
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
    fn of(row: &impl Row) -> Result<Self, Error> {
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

/// Puts rows, in order of position, together to entries.
pub(crate) fn group<R: Row>(rows: Vec<R>) -> Result<Vec<Group<R>>, Error> {
    let mut groups: Vec<Group<R>> = Vec::new();
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

/// The positions of all lines that the entries correct, in order: what [`Past`] has to know of.
pub(crate) fn corrected<R: Row>(groups: &[Group<R>]) -> Result<Vec<i64>, Error> {
    let mut corrected = Vec::new();
    for group in groups.iter().filter(|group| group.kind != Kind::Usage) {
        let (first, lines) = corrects(group)?;
        corrected.extend(first..first + lines);
    }
    corrected.sort_unstable();
    corrected.dedup();
    Ok(corrected)
}

/// Makes entries of rows; corrections together with the events that they correct.
pub(crate) fn entries<R: Row>(groups: &[Group<R>], past: &Past) -> Result<Vec<Arc<Entry>>, Error> {
    groups
        .iter()
        .map(|group| {
            let change = match group.kind {
                Kind::Usage => Change::Recorded(events::event(&group.rows)?),
                Kind::Void => Change::Voided(past.event(corrects(group)?.0, group.last)?),
                Kind::Reprice => repriced(group, past)?,
            };
            Ok(Arc::new(Entry {
                position: group.last,
                change,
            }))
        })
        .collect()
}

/// The first position and the number of lines of the event that a correction corrects.
fn corrects<R: Row>(group: &Group<R>) -> Result<(i64, i64), Error> {
    let row = first_row(group)?;
    let of: i64 = row.value("of_position")?;
    let line: i64 = row.value("line")?;
    let lines: i64 = row.value("line_count")?;
    if !(1..=small(MAX_LINES)).contains(&lines) {
        return Err(Error::Corrupt(format!("an event of {lines} lines")));
    }
    Ok((of - line, lines))
}

fn first_row<R>(group: &Group<R>) -> Result<&R, Error> {
    let missing = || Error::Corrupt("an entry has no row".into());
    group.rows.first().ok_or_else(missing)
}

fn repriced<R: Row>(group: &Group<R>, past: &Past) -> Result<Change, Error> {
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
#[derive(Default)]
pub(crate) struct Past {
    events: HashMap<i64, Recorded>,
    /// By the line's position: where each new price was written, and its difference.
    reprices: HashMap<i64, Vec<(i64, Quote)>>,
    /// By the first line's position: where the void was written, and what it says.
    voids: HashMap<i64, (i64, Voided)>,
}

impl Past {
    /// Of the lines of events, in order of position, and of all rows that correct them.
    pub(crate) fn new<R: Row>(lines: Vec<R>, corrections: &[R]) -> Result<Self, Error> {
        let mut events = HashMap::new();
        for group in group(lines)? {
            events.insert(group.first, events::event(&group.rows)?);
        }
        let mut reprices: HashMap<i64, Vec<(i64, Quote)>> = HashMap::new();
        let mut voids = HashMap::new();
        for row in corrections {
            let key = Key::of(row)?;
            let Some(of) = key.of_position else { continue };
            if key.kind == Kind::Void && key.line == 0 {
                let voided = Voided {
                    at_us: row.value("recorded_at")?,
                    reason: key.correction.unwrap_or_default(),
                };
                voids.insert(of, (key.position, voided));
            } else if key.kind == Kind::Reprice
                && let Some(quote) = events::quote(row)?
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
    pub(crate) fn event(&self, first: i64, at: i64) -> Result<Recorded, Error> {
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

/// A bound as databases count.
pub(crate) fn small(bound: usize) -> i64 {
    i64::try_from(bound).unwrap_or(i64::MAX)
}
