//! Usage by model and by calendar, and the rest of [`Reports`], each theme in a file of its own.
use super::Postgres;
use crate::ledger::reports::{
    Listed, Message, Page, Part, Reports, SessionQuery, SessionSummary, ToolQuery, ToolUsage,
};
use crate::ledger::{Error, ModelTotals, Range};
use async_trait::async_trait;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::totals::Totals;

fn later<T>() -> Result<T, Error> {
    Err(Error::Unavailable("not built".into()))
}

#[async_trait]
impl Reports for Postgres {
    async fn by_model(&self, _tenant: &TenantId, _part: &Part) -> Result<Vec<ModelTotals>, Error> {
        later()
    }
    async fn user_reach(
        &self,
        _tenant: &TenantId,
        _user_id: &str,
    ) -> Result<Option<(i64, i64)>, Error> {
        later()
    }
    async fn user_spans(
        &self,
        _tenant: &TenantId,
        _user_id: &str,
        _spans: &[Range],
        _limit: i64,
    ) -> Result<Vec<(Range, Totals)>, Error> {
        later()
    }
    async fn user_spans_by_model(
        &self,
        _tenant: &TenantId,
        _user_id: &str,
        _spans: &[Range],
    ) -> Result<Vec<(Range, Vec<ModelTotals>)>, Error> {
        later()
    }
    async fn sessions(
        &self,
        _tenant: &TenantId,
        _query: &SessionQuery,
        _page: Page,
    ) -> Result<Listed<SessionSummary>, Error> {
        later()
    }
    async fn tools(
        &self,
        _tenant: &TenantId,
        _query: &ToolQuery,
        _page: Page,
    ) -> Result<Listed<ToolUsage>, Error> {
        later()
    }
    async fn messages(
        &self,
        _tenant: &TenantId,
        _session_id: &str,
        _user_id: &str,
        _page: Page,
    ) -> Result<Listed<Message>, Error> {
        later()
    }
}
