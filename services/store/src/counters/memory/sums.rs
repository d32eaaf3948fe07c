//! What is used and held in the buckets that count, and over all of them.
//!
//! The totals are kept with every change, so that admission reads two figures and walks no buckets;
//! only a refusal walks them, to say when there is room again.

use std::collections::VecDeque;

use tokenmeter_model::limit::{Amounts, Metric, Window};

use super::calendar::Calendar;

/// A sum in every metric, beyond what 64 bits hold: what passed them comes back exactly.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    requests: i128,
    input: i128,
    uncached_input: i128,
    output: i128,
    cost_nano_usd: i128,
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.input += other.input;
        self.uncached_input += other.uncached_input;
        self.output += other.output;
        self.cost_nano_usd += other.cost_nano_usd;
    }

    fn subtract(&mut self, other: &Self) {
        self.requests -= other.requests;
        self.input -= other.input;
        self.uncached_input -= other.uncached_input;
        self.output -= other.output;
        self.cost_nano_usd -= other.cost_nano_usd;
    }

    /// The sum in one metric.
    pub(super) fn of(&self, metric: Metric) -> i128 {
        match metric {
            Metric::Requests => self.requests,
            Metric::InputTokens => self.input,
            Metric::UncachedInputTokens => self.uncached_input,
            Metric::OutputTokens => self.output,
            Metric::TotalTokens => self.input + self.output,
            Metric::Cost => self.cost_nano_usd,
        }
    }
}

impl From<&Amounts> for Sum {
    fn from(amounts: &Amounts) -> Self {
        Self {
            requests: amounts.requests.into(),
            input: amounts.input.into(),
            uncached_input: amounts.uncached_input.into(),
            output: amounts.output.into(),
            cost_nano_usd: amounts.cost_nano_usd.into(),
        }
    }
}

/// What is settled, and what calls in flight reserve.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    pub(super) used: Sum,
    pub(super) held: Sum,
}

impl Load {
    pub(super) fn used(used: &Amounts) -> Self {
        Self {
            used: used.into(),
            held: Sum::default(),
        }
    }

    pub(super) fn held(held: &Amounts) -> Self {
        Self {
            used: Sum::default(),
            held: held.into(),
        }
    }

    /// What was held before.
    pub(super) fn given_back(held: &Amounts) -> Self {
        let mut load = Self::default();
        load.held.subtract(&held.into());
        load
    }

    fn add(&mut self, other: &Self) {
        self.used.add(&other.used);
        self.held.add(&other.held);
    }

    fn subtract(&mut self, other: &Self) {
        self.used.subtract(&other.used);
        self.held.subtract(&other.held);
    }

    /// Both in one metric.
    pub(super) fn of(&self, metric: Metric) -> i128 {
        self.used.of(metric) + self.held.of(metric)
    }
}

/// The buckets of one counter.
#[derive(Debug)]
pub(super) struct Sums {
    window: Window,
    open_from: i64,
    total: Load,
    /// By start, rising; only buckets from `open_from` on.
    buckets: VecDeque<(i64, Load)>,
}

impl Sums {
    /// Nothing yet.
    pub(super) fn new(window: Window, calendar: &Calendar) -> Self {
        Self {
            window,
            open_from: calendar.open_from(window),
            total: Load::default(),
            buckets: VecDeque::new(),
        }
    }

    /// Drops the buckets that no longer count.
    pub(super) fn tick(&mut self, calendar: &Calendar) {
        self.open_from = calendar.open_from(self.window);
        while let Some((start, load)) = self.buckets.front() {
            if *start >= self.open_from {
                return;
            }
            self.total.subtract(load);
            self.buckets.pop_front();
        }
    }

    /// Adds to the bucket of a charge time; nothing if that no longer counts.
    pub(super) fn add(&mut self, calendar: &Calendar, charge_time_us: i64, load: &Load) {
        self.add_to(calendar.bucket(self.window, charge_time_us), load);
    }

    /// Adds to a bucket by its start.
    pub(super) fn add_to(&mut self, start: i64, load: &Load) {
        if start < self.open_from {
            return;
        }
        self.total.add(load);
        match self.buckets.back_mut() {
            Some((last, sum)) if *last == start => sum.add(load),
            Some((last, _)) if *last > start => {
                match self.buckets.binary_search_by_key(&start, |(at, _)| *at) {
                    Ok(place) => self.buckets[place].1.add(load),
                    Err(place) => self.buckets.insert(place, (start, *load)),
                }
            }
            _ => self.buckets.push_back((start, *load)),
        }
    }

    /// Over all buckets that count, as of the last [`Sums::tick`].
    pub(super) fn total(&self) -> &Load {
        &self.total
    }

    /// The first moment, now or when a bucket leaves the window, at which used and held come to at
    /// most so much; none if that is never.
    pub(super) fn falls_to(&self, calendar: &Calendar, metric: Metric, most: i128) -> Option<i64> {
        let mut sum = self.total.of(metric);
        if sum <= most {
            return Some(calendar.now_us());
        }
        for (start, load) in &self.buckets {
            let closes_us = calendar.closes(self.window, *start)?;
            sum -= load.of(metric);
            if sum <= most {
                return Some(closes_us);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use tokenmeter_model::limit::Zoned;
    use tokenmeter_model::zone::Zone;

    use super::*;

    const SECOND_US: i64 = 1_000_000;
    const START_US: i64 = 1_800_000_000 * SECOND_US;

    fn requests(requests: i64) -> Load {
        Load::used(&Amounts {
            requests,
            ..Amounts::ZERO
        })
    }

    #[test]
    fn buckets_leave_one_by_one_and_the_total_with_them() {
        let mut calendar = Calendar::new(&Zoned::always(Zone::utc()), START_US + 10 * SECOND_US);
        let mut sums = Sums::new(Window::Minute, &calendar);
        // Told out of order, and one of them too late.
        for (second, count) in [(5, 1), (3, 2), (9, 4), (5, 8), (-60, 16)] {
            let charge_time_us = START_US + second * SECOND_US + 1;
            sums.add(&calendar, charge_time_us, &requests(count));
        }
        let total = |sums: &Sums| sums.total().of(Metric::Requests);
        assert_eq!(total(&sums), 15);
        let falls_to = |sums: &Sums, calendar: &Calendar, most| {
            let at_us = sums.falls_to(calendar, Metric::Requests, most);
            at_us.map(|at_us| (at_us - START_US) / SECOND_US)
        };
        // A part leaves when its last instant is a minute ago.
        for (most, second) in [
            (15, 10),
            (14, 64),
            (13, 64),
            (12, 66),
            (4, 66),
            (3, 70),
            (0, 70),
        ] {
            assert_eq!(falls_to(&sums, &calendar, most), Some(second), "{most}");
        }
        assert_eq!(falls_to(&sums, &calendar, -1), None);
        for (second, rest) in [(63, 15), (64, 13), (65, 13), (66, 4), (70, 0)] {
            calendar.tick(START_US + second * SECOND_US);
            sums.tick(&calendar);
            assert_eq!(total(&sums), rest, "{second}");
        }
        assert!(sums.buckets.is_empty());
    }

    #[test]
    fn what_never_leaves_never_makes_room() {
        let calendar = Calendar::new(&Zoned::always(Zone::utc()), START_US);
        let mut sums = Sums::new(Window::Session, &calendar);
        sums.add(&calendar, 0, &requests(7));
        assert_eq!(
            sums.falls_to(&calendar, Metric::Requests, 7),
            Some(START_US)
        );
        assert_eq!(sums.falls_to(&calendar, Metric::Requests, 6), None);
    }
}
