//! What a side came to, and the line that is printed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one side did in one or more slices.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Events or calls.
    pub(crate) done: u64,
    pub(crate) elapsed: Duration,
    /// How long each call or transaction took, in microseconds.
    pub(crate) micros: Vec<u32>,
}

impl Tally {
    pub(crate) fn add(&mut self, slice: Self) {
        self.done += slice.done;
        self.elapsed += slice.elapsed;
        self.micros.extend(slice.micros);
    }

    pub(crate) fn per_second(&self) -> f64 {
        let done = u32::try_from(self.done).expect("fewer than four billion");
        f64::from(done) / self.elapsed.as_secs_f64()
    }

    /// The time that this many per cent did not pass: nearest rank.
    pub(crate) fn percentile(&mut self, percent: usize) -> u32 {
        self.micros.sort_unstable();
        let rank = (self.micros.len() * percent).div_ceil(100);
        self.micros
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    }
}

/// One case: a line of the output.
#[derive(Debug, Serialize)]
pub(crate) struct Case {
    bench: &'static str,
    backend: &'static str,
    ours: f64,
    floor: f64,
    ratio: f64,
    unit: &'static str,
    p50_us: u32,
    p99_us: u32,
    floor_p50_us: u32,
    floor_p99_us: u32,
}

impl Case {
    pub(crate) fn new(
        bench: &'static str,
        backend: &'static str,
        unit: &'static str,
        mut ours: Tally,
        mut floor: Tally,
    ) -> Self {
        Self {
            bench,
            backend,
            ours: ours.per_second().round(),
            floor: floor.per_second().round(),
            ratio: (ours.per_second() / floor.per_second() * 1_000.0).round() / 1_000.0,
            unit,
            p50_us: ours.percentile(50),
            p99_us: ours.percentile(99),
            floor_p50_us: floor.percentile(50),
            floor_p99_us: floor.percentile(99),
        }
    }

    /// Prints the line.
    pub(crate) fn print(&self) {
        let line = serde_json::to_string(self).expect("a case is JSON");
        println!("{line}");
    }
}

/// A figure of which less is better, beside what it is held against: a line of the output.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    bench: &'static str,
    backend: &'static str,
    ours: i64,
    floor: i64,
    ratio: f64,
    unit: &'static str,
}

impl Cost {
    pub(crate) fn new(bench: &'static str, floor: i64, ours: i64, unit: &'static str) -> Self {
        Self::of(bench, "postgres", floor, ours, unit)
    }

    pub(crate) fn of(
        bench: &'static str,
        backend: &'static str,
        floor: i64,
        ours: i64,
        unit: &'static str,
    ) -> Self {
        let thousandths = ours * 1_000 / floor.max(1);
        Self {
            bench,
            backend,
            ours,
            floor,
            ratio: f64::from(i32::try_from(thousandths).expect("a small ratio")) / 1_000.0,
            unit,
        }
    }

    /// Prints the line.
    pub(crate) fn print(&self) {
        println!("{}", serde_json::to_string(self).expect("a line is JSON"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_totals_and_percentiles_of_times_that_occurred() {
        let tally = |done, seconds, micros| Tally {
            done,
            elapsed: Duration::from_secs(seconds),
            micros,
        };
        let mut ours = tally(100, 1, vec![4, 2]);
        ours.add(tally(200, 3, vec![1, 3]));
        let floor = tally(300, 2, vec![9]);
        let case = serde_json::to_string(&Case::new("b", "sqlite", "events/s", ours, floor));
        assert_eq!(
            case.unwrap(),
            r#"{"bench":"b","backend":"sqlite","ours":75.0,"floor":150.0,"ratio":0.5,"unit":"events/s","p50_us":2,"p99_us":4,"floor_p50_us":9,"floor_p99_us":9}"#
        );
    }
}
