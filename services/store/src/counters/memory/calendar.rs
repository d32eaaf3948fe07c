//! The calendar of a tenant's windows, with the day and the month of now worked out once.

use tokenmeter_model::limit::{Window, Zoned};

/// A stretch of time, in microseconds since the Unix epoch: `from` belongs to it, `until` does not.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: i64,
    until: i64,
}

impl Span {
    fn has(&self, at_us: i64) -> bool {
        (self.from..self.until).contains(&at_us)
    }
}

/// A calendar at a moment.
#[derive(Debug)]
pub(super) struct Calendar {
    zoned: Zoned,
    now_us: i64,
    day: Span,
    month: Span,
}

impl Calendar {
    pub(super) fn new(zoned: &Zoned, now_us: i64) -> Self {
        Self {
            zoned: zoned.clone(),
            now_us,
            day: span(zoned, Window::Day, now_us),
            month: span(zoned, Window::Month, now_us),
        }
    }

    /// Whether it is this calendar.
    pub(super) fn is(&self, zoned: &Zoned) -> bool {
        self.zoned == *zoned
    }

    /// Moves to a later moment.
    pub(super) fn tick(&mut self, now_us: i64) {
        self.now_us = now_us;
        if !self.day.has(now_us) {
            self.day = span(&self.zoned, Window::Day, now_us);
        }
        if !self.month.has(now_us) {
            self.month = span(&self.zoned, Window::Month, now_us);
        }
    }

    pub(super) fn now_us(&self) -> i64 {
        self.now_us
    }

    /// The bucket into which a charge time falls.
    pub(super) fn bucket(&self, window: Window, charge_time_us: i64) -> i64 {
        match self.current(window) {
            Some(span) if span.has(charge_time_us) => span.from,
            _ => window.bucket(&self.zoned, charge_time_us),
        }
    }

    /// The first bucket that counts now.
    pub(super) fn open_from(&self, window: Window) -> i64 {
        match self.current(window) {
            Some(span) => span.from,
            None => window.open_from(&self.zoned, self.now_us),
        }
    }

    /// When a bucket no longer counts; none for windows that do not end.
    pub(super) fn closes(&self, window: Window, bucket_us: i64) -> Option<i64> {
        match self.current(window) {
            Some(span) if span.from == bucket_us => Some(span.until),
            _ => window.closes(&self.zoned, bucket_us),
        }
    }

    fn current(&self, window: Window) -> Option<Span> {
        match window {
            Window::Day => Some(self.day),
            Window::Month => Some(self.month),
            _ => None,
        }
    }
}

/// The one bucket of a calendar window that counts at a time.
fn span(zoned: &Zoned, window: Window, now_us: i64) -> Span {
    let from = window.bucket(zoned, now_us);
    Span {
        from,
        until: window.closes(zoned, from).unwrap_or(i64::MAX),
    }
}
