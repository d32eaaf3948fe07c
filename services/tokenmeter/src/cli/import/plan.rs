//! Rows become events, whatever the format of the file: what a source of rows is, and what every
//! format needs of an event.

use std::io::{self, BufRead};

use prost::Message as _;
use prost_types::Timestamp;
use tokenmeter_api::v1;
use tokenmeter_model::counts::TokenCounts;
use tokenmeter_model::provider::Normalized;

use crate::cli::normalize::sum;
use crate::cli::rows::{Lines, Refusal};

/// Largest event that is sent, in bytes; also the most bytes of a batch.
pub(super) const MAX_BYTES: usize = 3 * 1024 * 1024;
/// Digits of the file's hash in the ids of its rows.
const ID_DIGITS: usize = 32;

/// The rows of a file, in their order.
pub(super) trait Source {
    /// The next row; none at the end of the file.
    fn next(&mut self) -> io::Result<Option<Item>>;
}

impl Source for Box<dyn Source> {
    fn next(&mut self) -> io::Result<Option<Item>> {
        (**self).next()
    }
}

/// A row on its way.
#[derive(Debug)]
pub(super) struct Item {
    /// Its line in the file, from 0.
    pub(super) line: u64,
    /// Where the next row begins, in bytes.
    pub(super) end: u64,
    /// Its event; none for a row that is to be left out.
    pub(super) planned: Result<Option<Planned>, Refusal>,
}

impl Item {
    /// The event, if the row has one.
    pub(super) fn event(&self) -> Option<&Planned> {
        self.planned.as_ref().ok()?.as_ref()
    }
}

/// What turns the text of a line into an event.
type Plan = fn(&str, u64, &Defaults) -> Result<Option<Planned>, Refusal>;

/// A source with one row a line.
pub(super) struct RowsOfLines<R> {
    lines: Lines<R>,
    defaults: Defaults,
    plan: Plan,
}

impl<R: BufRead> RowsOfLines<R> {
    /// The rows of `reader`, each made an event by `plan`.
    pub(super) fn new(reader: R, defaults: Defaults, plan: Plan) -> Self {
        Self {
            lines: Lines::new(reader),
            defaults,
            plan,
        }
    }
}

impl<R: BufRead> Source for RowsOfLines<R> {
    fn next(&mut self) -> io::Result<Option<Item>> {
        let numbered = self.lines.next()?;
        Ok(numbered.map(|numbered| Item {
            line: numbered.line,
            end: numbered.end,
            planned: numbered
                .text
                .and_then(|text| (self.plan)(&text, numbered.line, &self.defaults)),
        }))
    }
}

/// What rows have that do not say themselves.
#[derive(Debug, Clone, Default)]
pub(super) struct Defaults {
    pub(super) user: String,
    pub(super) team: String,
    pub(super) session: String,
    pub(super) labels: Vec<v1::Label>,
    pub(super) time: Option<Timestamp>,
    /// The SHA-256 of the file's content in hexadecimal digits.
    pub(super) file_hash: String,
}

impl Defaults {
    /// The id of a row that has none: the same whenever the same file is imported.
    pub(super) fn id_of(&self, line: u64) -> String {
        let digits = self.file_hash.get(..ID_DIGITS).unwrap_or_default();
        format!("file:{digits}:{line}")
    }

    /// Fills in what an event does not say itself.
    pub(super) fn fill(&self, event: &mut v1::UsageEvent) {
        for (own, default) in [
            (&mut event.user_id, &self.user),
            (&mut event.team_id, &self.team),
            (&mut event.session_id, &self.session),
        ] {
            if own.is_empty() {
                own.clone_from(default);
            }
        }
        event.request_time = event.request_time.or(self.time);
        for label in &self.labels {
            if !event.labels.iter().any(|own| own.key == label.key) {
                event.labels.push(label.clone());
            }
        }
    }
}

/// A row that can be sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    /// What is sent.
    pub(super) event: v1::UsageEvent,
    /// Its size in bytes.
    pub(super) bytes: usize,
    /// What the file itself says was used; none if it cannot be read, so that the server, whose
    /// word counts, will refuse the row.
    pub(super) used: Option<Used>,
}

impl Planned {
    /// An event, unless it is too large to be sent.
    pub(super) fn new(event: v1::UsageEvent, used: Option<Used>) -> Result<Self, Refusal> {
        let bytes = event.encoded_len();
        if bytes > MAX_BYTES {
            let message = format!("the usage has {bytes} bytes, more than {MAX_BYTES}");
            return Err(Refusal::new("USAGE_TOO_LARGE", message));
        }
        Ok(Self { event, bytes, used })
    }
}

/// What one event used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// Models billed.
    pub(super) lines: i64,
    /// Counts over all of them.
    pub(super) counts: TokenCounts,
    /// Whether neither the row nor its document says when the call was made.
    pub(super) undated: bool,
}

impl Used {
    /// What an event used by its provider's document.
    pub(super) fn of_document(event: &v1::UsageEvent, normalized: &Normalized) -> Self {
        Self {
            undated: event.request_time.is_none() && normalized.created_us.is_none(),
            lines: i64::try_from(normalized.lines.len()).unwrap_or(i64::MAX),
            counts: sum(&normalized.lines),
        }
    }

    /// What an event used by its own lines; none if a count is out of its bound, which the server
    /// will refuse.
    pub(super) fn of_lines(event: &v1::UsageEvent, lines: &[v1::UsageLine]) -> Option<Self> {
        let mut counts = TokenCounts::default();
        let mut wrong = Vec::new();
        for line in lines {
            let one: TokenCounts = line.counts.map(Into::into).unwrap_or_default();
            one.check("counts", &mut wrong);
            if !wrong.is_empty() {
                return None;
            }
            counts.add(&one);
        }
        Some(Self {
            undated: event.request_time.is_none(),
            lines: i64::try_from(lines.len()).unwrap_or(i64::MAX),
            counts,
        })
    }
}
