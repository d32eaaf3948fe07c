//! The final report: the file against the store.

use std::collections::BTreeMap;

use serde::Serialize;
use tokenmeter_model::counts::TokenCounts;

use super::readback::Standing;
use super::run::Done;
use super::state::RefusedRow;
use crate::cli::error::Error;
use crate::cli::render::{self, count, usd_of};

/// Refused rows that people are shown.
const ROWS_SHOWN: usize = 20;

/// The report, in the order of keys that programs are promised.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    read: u64,
    recorded: u64,
    duplicates: u64,
    skipped: u64,
    refused: &'a BTreeMap<String, u64>,
    unpriced: i64,
    file: Sums,
    store: Option<StoreSums>,
    equal: bool,
    mismatches: u64,
    undated: i64,
    refused_rows: &'a [RefusedRow],
}

/// Exact sums over events, each id once.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Sums {
    events: i64,
    lines: i64,
    input: i64,
    cache_read: i64,
    cache_write: i64,
    output: i64,
    reasoning: i64,
    total: i64,
    /// Every count for itself, times-to-live and sub-counts included, to compare.
    #[serde(skip)]
    counts: TokenCounts,
}

impl Sums {
    fn new(events: i64, lines: i64, counts: TokenCounts) -> Self {
        Self {
            events,
            lines,
            input: counts.input,
            cache_read: counts.cache_read,
            cache_write: counts.cache_write.total(),
            output: counts.output,
            reasoning: counts.reasoning,
            total: counts.total(),
            counts,
        }
    }
}

#[derive(Debug, Serialize)]
struct StoreSums {
    #[serde(flatten)]
    sums: Sums,
    cost_nano_usd: i64,
    voided: usize,
}

impl<'a> Report<'a> {
    /// Compares; `standing` is none if the store could not be read, which is never equal.
    pub(super) fn new(done: &'a Done, standing: Option<Standing>) -> Self {
        let accepted = &done.accepted;
        let events = i64::try_from(accepted.ids.len()).unwrap_or(i64::MAX);
        let file = Sums::new(events, accepted.lines, accepted.counts);
        let store = standing.as_ref().map(|standing| StoreSums {
            sums: Sums::new(standing.events, standing.lines, standing.counts),
            cost_nano_usd: standing.cost_nano_usd,
            voided: standing.voided.len(),
        });
        let same = store.as_ref().is_some_and(|store| store.sums == file);
        Self {
            read: done.progress.read,
            recorded: done.progress.recorded,
            duplicates: done.progress.duplicates,
            skipped: done.progress.skipped,
            refused: &done.progress.refused,
            unpriced: standing.map_or(0, |standing| standing.unpriced),
            file,
            store,
            equal: same && done.progress.mismatches == 0,
            mismatches: done.progress.mismatches,
            undated: accepted.undated,
            refused_rows: &done.progress.refused_rows,
        }
    }

    /// Whether file and store say the same.
    pub(super) fn equal(&self) -> bool {
        self.equal
    }

    /// Whether any row was refused.
    pub(super) fn any_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Prints the report for people.
    pub(super) fn print(&self) -> Result<(), Error> {
        render::line(&self.text())
    }

    fn text(&self) -> String {
        let mut text = vec![format!(
            "{} rows read: {} recorded, {} duplicates, {} refused",
            self.read,
            self.recorded,
            self.duplicates,
            self.refused.values().sum::<u64>()
        )];
        if self.skipped > 0 {
            text.push(format!("{} voided events left out", self.skipped));
        }
        text.push(self.sums().to_string());
        if let Some(store) = &self.store {
            text.push(format!(
                "cost in the store: {}; lines without a price: {}",
                usd_of(store.cost_nano_usd),
                self.unpriced
            ));
            if store.voided > 0 {
                text.push(format!(
                    "voided in the store, and left out on both sides: {} events",
                    store.voided
                ));
            }
        }
        if self.undated > 0 {
            text.push(format!(
                "{} events carry no time and count as of when they were first recorded; say when \
                 with --time",
                self.undated
            ));
        }
        if self.mismatches > 0 {
            let n = self.mismatches;
            text.push(format!("{n} rows have other counts in the server's answer"));
        }
        if self.any_refused() {
            text.push(self.refusals().to_string());
            let hidden = self.refused.values().sum::<u64>() - self.shown();
            if hidden > 0 {
                text.push(format!(
                    "and {hidden} more refused rows (see --report json)"
                ));
            }
        }
        text.push(match (self.equal, &self.store) {
            (true, _) => "equal: the store has what the file says".to_owned(),
            (false, Some(_)) => "NOT EQUAL: the store differs from the file".to_owned(),
            (false, None) => "NOT COMPARED: the store could not be read".to_owned(),
        });
        text.join("\n")
    }

    fn sums(&self) -> comfy_table::Table {
        let mut table = render::table(&[
            "",
            "#events",
            "#lines",
            "#input",
            "#cache read",
            "#cache write",
            "#output",
            "#reasoning",
            "#total",
        ]);
        let store = self.store.as_ref().map(|store| &store.sums);
        for (name, sums) in [("file", Some(&self.file)), ("store", store)] {
            let Some(sums) = sums else { continue };
            let counts = [
                sums.events,
                sums.lines,
                sums.input,
                sums.cache_read,
                sums.cache_write,
                sums.output,
                sums.reasoning,
                sums.total,
            ];
            let row = std::iter::once(name.to_owned()).chain(counts.into_iter().map(count));
            table.add_row(row.collect::<Vec<_>>());
        }
        table
    }

    fn shown(&self) -> u64 {
        self.refused_rows.len().min(ROWS_SHOWN) as u64
    }

    fn refusals(&self) -> comfy_table::Table {
        let mut table = render::table(&["#line", "refused for", "why"]);
        for row in self.refused_rows.iter().take(ROWS_SHOWN) {
            table.add_row(vec![
                row.line.to_string(),
                row.reason.clone(),
                row.message.clone(),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done() -> Done {
        let mut done = Done::default();
        done.progress.read = 3;
        done.progress.recorded = 2;
        done.progress.refuse(1, "EVENT_CONFLICT", "differs".into());
        done.accepted.ids.extend(["a".into(), "b".into()]);
        done.accepted.lines = 2;
        done.accepted.counts.input = 5;
        done.accepted.counts.cache_write.ttl_1h = 2;
        done
    }

    fn standing() -> Standing {
        let mut standing = Standing {
            events: 2,
            lines: 2,
            unpriced: 1,
            cost_nano_usd: 42,
            ..Default::default()
        };
        standing.counts.input = 5;
        standing.counts.cache_write.ttl_1h = 2;
        standing
    }

    #[test]
    fn the_json_has_the_promised_keys_in_their_order() {
        let done = done();
        let json = serde_json::to_string(&Report::new(&done, Some(standing()))).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"read":3,"recorded":2,"duplicates":0,"skipped":0,"refused":{"EVENT_CONFLICT":1},"#,
                r#""unpriced":1,"file":{"events":2,"lines":2,"input":5,"cache_read":0,"#,
                r#""cache_write":2,"output":0,"reasoning":0,"total":7},"store":{"events":2,"#,
                r#""lines":2,"input":5,"cache_read":0,"cache_write":2,"output":0,"reasoning":0,"#,
                r#""total":7,"cost_nano_usd":42,"voided":0},"equal":true,"mismatches":0,"undated":0,"#,
                r#""refused_rows":[{"line":1,"reason":"EVENT_CONFLICT","message":"differs"}]}"#,
            )
        );
    }

    #[test]
    fn any_difference_is_unequal() {
        let equal = |standing| Report::new(&done(), standing).equal();
        assert!(equal(Some(standing())));
        assert!(!equal(None));
        let differ: [fn(&mut Standing); 4] = [
            |s| s.events = 1,
            |s| s.lines = 3,
            |s| s.counts.reasoning = 1,
            // The sum of all cache writes stays the same.
            |s| (s.counts.cache_write.ttl_1h, s.counts.cache_write.ttl_5m) = (1, 1),
        ];
        for change in differ {
            let mut standing = standing();
            change(&mut standing);
            assert!(!equal(Some(standing.clone())), "{standing:?}");
        }
        let mut done = done();
        done.progress.mismatches = 1;
        assert!(!Report::new(&done, Some(standing())).equal());
    }

    #[test]
    fn people_see_refused_rows_and_the_verdict() {
        let done = done();
        let text = Report::new(&done, Some(standing())).text();
        assert!(text.contains("EVENT_CONFLICT") && text.contains("$0.000000042"));
        assert!(text.ends_with("equal: the store has what the file says"));
    }
}
