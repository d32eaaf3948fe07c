//! Refusals and hits of limits (R24).

use tokenmeter_api::page::{self, WrongToken};
use tokenmeter_identity::Caller;
use tokenmeter_store::ledger::limits::{HitQuery, LimitHit};

use crate::error::Error;
use crate::service::{Analytics, check_range, check_text, listed_user};

impl Analytics {
    /// A page of hits, newest first, and the token of the next page, if any. A caller that reads only
    /// itself gets those of its own calls.
    ///
    /// # Errors
    /// [`Error::Denied`] for another user than the caller without the role for it, fields out of
    /// bounds, or the ledger's.
    pub async fn limit_hits(
        &self,
        caller: &Caller,
        mut query: HitQuery,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<LimitHit>, Option<String>), Error> {
        query.user_id = listed_user(caller, &query.user_id)?;
        check_text("subject", &query.subject)?;
        check_text("limit_name", &query.limit_name)?;
        check_range(query.range)?;
        let size = page::size(page_size)?;
        let filters = format!("hits\u{0}{}\u{0}{query:?}", caller.tenant);
        if let Some(end) = page::read(&filters, page_token)? {
            query.before = Some(read_end(end).ok_or(WrongToken)?);
        }
        // One more than the page tells whether there is a next one.
        query.limit = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
        let mut hits = self.ledger.hits(&caller.tenant, &query).await?;
        let more = hits.len() > size;
        hits.truncate(size);
        let last = hits.last().filter(|_| more);
        let end = last.map(|(number, last)| format!("{}.{number}", last.second_us));
        let next = end.map(|end| page::token(&filters, &end));
        Ok((hits.into_iter().map(|(_, hit)| hit).collect(), next))
    }
}

/// Where a page ended: the second, and the hit's number in the ledger.
fn read_end(end: &str) -> Option<(i64, i64)> {
    let (second, number) = end.split_once('.')?;
    Some((second.parse().ok()?, number.parse().ok()?))
}
