//! `requests`: what was asked under a name, and what it was answered.
use crate::ledger::Error;
use crate::ledger::correction::{Remembered, Request};
use sqlx::postgres::PgPool;

pub(super) async fn find(
    _pool: &PgPool,
    _tenant: &str,
    _request_id: &str,
) -> Result<Option<Remembered>, Error> {
    Err(Error::Unavailable("not built".into()))
}

/// Remembers a request with its answer, unless it is remembered; answers what is.
pub(super) async fn remember(
    pool: &PgPool,
    request: &Request,
    answer: String,
) -> Result<Remembered, Error> {
    let tenant = request.tenant.as_str();
    let done = sqlx::query(
        "INSERT INTO requests \
         (tenant_id, request_id, rpc, fingerprint, user_id, requested_at, answer) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant_id, request_id) DO NOTHING",
    )
    .bind(tenant)
    .bind(&request.request_id)
    .bind(request.rpc)
    .bind(&request.fingerprint[..])
    .bind(&request.user_id)
    .bind(request.at_us)
    .bind(&answer)
    .execute(pool)
    .await
    .map_err(super::unavailable)?;
    if done.rows_affected() == 0 {
        let before = find(pool, tenant, &request.request_id).await?;
        return before.ok_or_else(|| Error::Corrupt("a request that is there is not".into()));
    }
    Ok(Remembered {
        rpc: request.rpc.to_owned(),
        fingerprint: request.fingerprint.to_vec(),
        answer,
    })
}
