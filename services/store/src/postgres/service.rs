//! Sessions and the service as a whole: totals by model, response times, reach.
use crate::ledger::{Error, ServiceQuery, ServiceUsage, Session};
use sqlx::postgres::PgPool;

pub(super) async fn session(
    _pool: &PgPool,
    _tenant: &str,
    _session: &str,
) -> Result<Option<Session>, Error> {
    Err(Error::Unavailable("not built".into()))
}

pub(super) async fn usage(
    _pool: &PgPool,
    _tenant: &str,
    _query: &ServiceQuery,
) -> Result<ServiceUsage, Error> {
    Err(Error::Unavailable("not built".into()))
}
