//! A user's closed months (R43).

use tokenmeter_api::page;
use tokenmeter_identity::Caller;
use tokenmeter_store::ledger::periods::Period;

use crate::error::Error;
use crate::service::{Analytics, check_text};

/// Periods of a page when nothing is asked for.
const DEFAULT_PERIODS: i32 = 12;

impl Analytics {
    /// A page of a user's closed periods, newest first, and the token of the next page, if any.
    ///
    /// # Errors
    /// [`Error::Denied`] for another user than the caller without the role for it.
    pub async fn closed(
        &self,
        caller: &Caller,
        user_id: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Period>, Option<String>), Error> {
        check_text("user_id", user_id)?;
        let user = caller.readable_user(user_id)?;
        let size = page::size_or(page_size, DEFAULT_PERIODS)?;
        let filters = format!("periods\u{0}{}\u{0}{user}", caller.tenant);
        let before = page::read(&filters, page_token)?.unwrap_or_default();
        // One more than the page tells whether there is a next one.
        let limit = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
        let periods = self.ledger.periods(&caller.tenant, user, before, limit);
        let mut periods = periods.await?;
        let more = periods.len() > size;
        periods.truncate(size);
        let next = periods
            .last()
            .filter(|_| more)
            .map(|last| page::token(&filters, &last.month.id));
        Ok((periods, next))
    }
}
