//! The messages of a session.

use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::Violation;
use tokenmeter_store::ledger::reports::Message;

use crate::error::Error;
use crate::paging::Paging;
use crate::service::{Analytics, check_text, listed_user};

impl Analytics {
    /// A page of a session's messages in sequence, and the token of the next page, if any. A
    /// caller that reads only itself gets its own.
    ///
    /// # Errors
    /// Fields out of bounds, or the ledger's.
    pub async fn messages(
        &self,
        caller: &Caller,
        session_id: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Message>, Option<String>), Error> {
        if session_id.is_empty() {
            return Err(Violation::new("session_id", "is required; send 1 to 255 bytes").into());
        }
        check_text("session_id", session_id)?;
        let user = listed_user(caller, "")?;
        let filters = format!("messages\u{0}{}\u{0}{user}\u{0}{session_id}", caller.tenant);
        let paging = Paging::new(filters, page_size, page_token, (self.clock)())?;
        let listed = self
            .ledger
            .messages(&caller.tenant, session_id, &user, paging.page())
            .await?;
        Ok(paging.cut(listed))
    }
}
