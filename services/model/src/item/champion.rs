//! Champion cases, reported on their own, possibly long after their call (R8).

use crate::bounds::{self, Violation};
use crate::event::check_time;
use crate::fingerprint::{Canonical, Fingerprint};

/// Champion cases found for a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChampionCases {
    /// Names the report for ever, 1 to 255 bytes.
    pub report_id: String,
    /// The user, 1 to 255 bytes.
    pub user_id: String,
    /// The session; empty when there is none.
    pub session_id: String,
    /// The model call; empty when there is none. It need not be recorded.
    pub event_id: String,
    /// How many, 1 to [`bounds::MAX_ORDINAL`].
    pub cases: i64,
    /// When they count, in microseconds since the Unix epoch; absent means when recorded.
    pub time_us: Option<i64>,
}

impl ChampionCases {
    pub(super) fn check(&self, now_us: i64) -> Vec<Violation> {
        let mut out = Vec::new();
        bounds::required_text("report_id", &self.report_id, &mut out);
        bounds::required_text("user_id", &self.user_id, &mut out);
        bounds::text("session_id", &self.session_id, &mut out);
        bounds::text("event_id", &self.event_id, &mut out);
        bounds::range("cases", self.cases, 1, bounds::MAX_ORDINAL, &mut out);
        if let Some(time) = self.time_us {
            check_time("time", time, now_us, &mut out);
        }
        out
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Canonical::new()
            .text(&self.report_id)
            .text(&self.user_id)
            .text(&self.session_id)
            .text(&self.event_id)
            .number(self.cases)
            .optional(self.time_us)
            .finish()
    }
}
