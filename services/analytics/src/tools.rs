//! Tools and how they do.

use tokenmeter_identity::Caller;
use tokenmeter_store::ledger::reports::{ToolQuery, ToolUsage};

use crate::error::Error;
use crate::paging::Paging;
use crate::service::{Analytics, check_range, check_text, listed_user};

impl Analytics {
    /// A page of tools, most calls first, and the token of the next page, if any.
    ///
    /// # Errors
    /// [`Error::Denied`] for another user than the caller without the role for it.
    pub async fn tool_usage(
        &self,
        caller: &Caller,
        mut query: ToolQuery,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<ToolUsage>, Option<String>), Error> {
        check_text("session_id", &query.session_id)?;
        check_text("tool", &query.tool)?;
        check_range(query.range)?;
        query.user_id = listed_user(caller, &query.user_id)?;
        let filters = format!("tools\u{0}{}\u{0}{query:?}", caller.tenant);
        let paging = Paging::new(filters, page_size, page_token, (self.clock)())?;
        let listed = self
            .ledger
            .tools(&caller.tenant, &query, paging.page())
            .await?;
        Ok(paging.cut(listed))
    }
}
