//! Lists of sessions.

use tokenmeter_identity::Caller;
use tokenmeter_store::ledger::Range;
use tokenmeter_store::ledger::reports::{SessionOrder, SessionQuery, SessionSummary};

use crate::error::Error;
use crate::paging::Paging;
use crate::service::{Analytics, check_range, listed_user};

/// How young a session's last event is while the session is active, in microseconds (30 minutes).
const ACTIVITY_US: i64 = 30 * 60 * 1_000_000;

/// A session in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedSession {
    /// The session in short.
    pub summary: SessionSummary,
    /// Whether its last event is younger than the activity time.
    pub active: bool,
}

/// A page of sessions, and the token of the next page, if any.
pub type SessionPage = (Vec<ListedSession>, Option<String>);

impl Analytics {
    /// The sessions with most tokens or cost, counting only what is in the range.
    ///
    /// # Errors
    /// [`Error::Denied`] for another user than the caller without the role for it.
    pub async fn top_sessions(
        &self,
        caller: &Caller,
        query: SessionQuery,
        page_size: i32,
        page_token: &str,
    ) -> Result<SessionPage, Error> {
        check_range(query.range)?;
        self.sessions(caller, query, false, page_size, page_token)
            .await
    }

    /// Sessions whose last event is in the range, the last active first.
    ///
    /// # Errors
    /// [`Error::Denied`] for another user than the caller without the role for it.
    pub async fn session_summaries(
        &self,
        caller: &Caller,
        user_id: String,
        last_event: Option<Range>,
        active_only: bool,
        page_size: i32,
        page_token: &str,
    ) -> Result<SessionPage, Error> {
        check_range(last_event)?;
        let query = SessionQuery {
            user_id,
            last_event,
            order: SessionOrder::LastEvent,
            ..SessionQuery::default()
        };
        self.sessions(caller, query, active_only, page_size, page_token)
            .await
    }

    async fn sessions(
        &self,
        caller: &Caller,
        mut query: SessionQuery,
        active_only: bool,
        page_size: i32,
        page_token: &str,
    ) -> Result<SessionPage, Error> {
        query.user_id = listed_user(caller, &query.user_id)?;
        let filters = format!(
            "sessions\u{0}{}\u{0}{query:?}\u{0}{active_only}",
            caller.tenant
        );
        let paging = Paging::new(filters, page_size, page_token, (self.clock)())?;
        let active_from_us = paging.now_us.saturating_sub(ACTIVITY_US).saturating_add(1);
        if active_only {
            let asked = query.last_event.unwrap_or(Range {
                from_us: i64::MIN,
                to_us: i64::MAX,
            });
            query.last_event = Some(Range {
                from_us: asked.from_us.max(active_from_us),
                ..asked
            });
        }
        let listed = self
            .ledger
            .sessions(&caller.tenant, &query, paging.page())
            .await?;
        let (sessions, next) = paging.cut(listed);
        let sessions = sessions.into_iter().map(|summary| ListedSession {
            active: summary.last_us >= active_from_us,
            summary,
        });
        Ok((sessions.collect(), next))
    }
}
