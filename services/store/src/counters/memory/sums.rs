//! What is used and held in the buckets that count, and over all of them.
//!
//! The totals are kept with every change, so that admission reads two figures and walks no buckets;
//! only a refusal walks them, to say when there is room again.

use std::collections::VecDeque;

use tokenmeter_model::limit::{Amounts, Metric, Window};

use super::calendar::Calendar;

/// What is settled, and what calls in flight reserve.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    pub(super) used: Amounts,
    pub(super) held: Amounts,
}

impl Load {
    pub(super) fn used(used: Amounts) -> Self {
        Self {
            used,
            held: Amounts::ZERO,
        }
    }

    pub(super) fn held(held: Amounts) -> Self {
        Self {
            used: Amounts::ZERO,
            held,
        }
    }

    fn plus(&self, other: &Self) -> Self {
        Self {
            used: self.used.plus(&other.used),
            held: self.held.plus(&other.held),
        }
    }

    fn minus(&self, other: &Self) -> Self {
        Self {
            used: self.used.minus(&other.used),
            held: self.held.minus(&other.held),
        }
    }

    /// Both in one metric, beyond what 64 bits hold.
    pub(super) fn of(&self, metric: Metric) -> i128 {
        i128::from(self.used.of(metric)) + i128::from(self.held.of(metric))
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
            self.total = self.total.minus(load);
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
        self.total = self.total.plus(load);
        match self.buckets.back_mut() {
            Some((last, sum)) if *last == start => *sum = sum.plus(load),
            Some((last, _)) if *last > start => {
                match self.buckets.binary_search_by_key(&start, |(at, _)| *at) {
                    Ok(place) => self.buckets[place].1 = self.buckets[place].1.plus(load),
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
