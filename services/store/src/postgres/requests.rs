//! `requests`: what was asked under a name, and what it was answered.

use sqlx::PgExecutor;
use sqlx::postgres::{PgConnection, PgPool};

use super::unavailable;
use crate::ledger::Error;
use crate::ledger::correction::{Remembered, Request};
use crate::rows::Row as _;

/// Sets the locks of tenants apart from other advisory locks.
const TENANTS: i64 = 0x746f_6b65_6e6d_7465;

/// Lets one request of a tenant at a time be answered and remembered, on any node, until the
/// transaction ends.
pub(super) async fn lock(connection: &mut PgConnection, tenant: &str) -> Result<(), Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, $2))")
        .bind(tenant)
        .bind(TENANTS)
        .execute(connection)
        .await
        .map_err(unavailable)?;
    Ok(())
}

/// The request of this name, if there is one.
pub(super) async fn find(
    executor: impl PgExecutor<'_>,
    tenant: &str,
    request_id: &str,
) -> Result<Option<Remembered>, Error> {
    let row = sqlx::query(
        "SELECT rpc, fingerprint, answer FROM requests WHERE tenant_id = $1 AND request_id = $2",
    )
    .bind(tenant)
    .bind(request_id)
    .fetch_optional(executor)
    .await
    .map_err(unavailable)?;
    row.map(|row| {
        Ok(Remembered {
            rpc: row.value("rpc")?,
            fingerprint: row.value("fingerprint")?,
            answer: row.value("answer")?,
        })
    })
    .transpose()
}

/// Remembers a request with its answer unless its name stands; answers what stands. One transaction.
pub(super) async fn remember(
    pool: &PgPool,
    request: &Request,
    answer: String,
) -> Result<Remembered, Error> {
    let tenant = request.tenant.as_str();
    let mut transaction = pool.begin().await.map_err(unavailable)?;
    lock(&mut transaction, tenant).await?;
    if let Some(before) = find(&mut *transaction, tenant, &request.request_id).await? {
        return Ok(before);
    }
    put(&mut transaction, request, &answer).await?;
    transaction.commit().await.map_err(unavailable)?;
    Ok(Remembered {
        rpc: request.rpc.to_owned(),
        fingerprint: request.fingerprint.to_vec(),
        answer,
    })
}

/// Remembers a request with its answer, or with another answer than before.
pub(super) async fn put(
    connection: &mut PgConnection,
    request: &Request,
    answer: &str,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO requests \
         (tenant_id, request_id, rpc, fingerprint, user_id, requested_at, answer) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (tenant_id, request_id) DO UPDATE SET answer = excluded.answer",
    )
    .bind(request.tenant.as_str())
    .bind(&request.request_id)
    .bind(request.rpc)
    .bind(request.fingerprint.to_vec())
    .bind(&request.user_id)
    .bind(request.at_us)
    .bind(answer)
    .execute(connection)
    .await
    .map_err(unavailable)?;
    Ok(())
}
