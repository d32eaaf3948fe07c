//! The price book's table: versions are added, never changed.

use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnection, PgPool};
use tokenmeter_model::price::Price;

use super::{requests, unavailable};
use crate::ledger::correction::{PriceSet, PricesOutcome};
use crate::ledger::{Error, StoredPrice};
use crate::rows::Row as _;

/// The advisory lock under which versions are given out, so that they become visible in order: a node
/// that has read one has read all before it.
const PRICES: i64 = 0x746f_6b65_6e6d_7072;

/// What is remembered of a request that set prices.
#[derive(Serialize, Deserialize)]
struct Set {
    versions: Vec<(i64, bool)>,
    answer: String,
}

/// Adds the prices that do not stand yet, figure for figure, in one transaction.
pub(super) async fn add(
    pool: &PgPool,
    tenant: &str,
    prices: Vec<Price>,
    now_us: i64,
) -> Result<Vec<(i64, bool)>, Error> {
    let mut transaction = pool.begin().await.map_err(unavailable)?;
    let versions = insert(&mut transaction, tenant, prices, now_us).await?;
    transaction.commit().await.map_err(unavailable)?;
    Ok(versions)
}

/// Adds prices as [`add`] does, once for each request: it is remembered in their transaction.
pub(super) async fn set(pool: &PgPool, set: PriceSet) -> Result<PricesOutcome, Error> {
    let PriceSet {
        request,
        prices,
        answer,
    } = set;
    let tenant = request.tenant.as_str();
    let mut transaction = pool.begin().await.map_err(unavailable)?;
    requests::lock(&mut transaction, tenant).await?;
    let before = requests::find(&mut *transaction, tenant, &request.request_id).await?;
    let set = match before {
        Some(before) if !before.is(&request) => None,
        Some(before) => Some(
            serde_json::from_str(&before.answer)
                .map_err(|error| Error::Corrupt(format!("an answer: {error}")))?,
        ),
        None => {
            let versions = insert(&mut transaction, tenant, prices, request.at_us).await?;
            let set = Set { versions, answer };
            let text = serde_json::to_string(&set).map_err(|e| Error::Corrupt(e.to_string()))?;
            requests::put(&mut transaction, &request, &text).await?;
            Some(set)
        }
    };
    transaction.commit().await.map_err(unavailable)?;
    Ok(match set {
        Some(Set { versions, answer }) => PricesOutcome::Set { versions, answer },
        None => PricesOutcome::RequestConflict,
    })
}

/// Adds the prices that do not stand yet within a transaction.
async fn insert(
    connection: &mut PgConnection,
    tenant: &str,
    prices: Vec<Price>,
    now_us: i64,
) -> Result<Vec<(i64, bool)>, Error> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(PRICES)
        .execute(&mut *connection)
        .await
        .map_err(unavailable)?;
    let mut versions = Vec::with_capacity(prices.len());
    for mut price in prices {
        price.version = 0;
        let text = serde_json::to_string(&price).map_err(|e| Error::Corrupt(e.to_string()))?;
        let standing: Option<(i64, String)> = sqlx::query_as(
            "SELECT version, price FROM prices WHERE tenant_id = $1 AND provider = $2 \
             AND model = $3 AND effective_from = $4 ORDER BY version DESC LIMIT 1",
        )
        .bind(tenant)
        .bind(&price.provider)
        .bind(&price.model)
        .bind(price.effective_from_us)
        .fetch_optional(&mut *connection)
        .await
        .map_err(unavailable)?;
        if let Some((version, _)) = standing.filter(|(_, standing)| *standing == text) {
            versions.push((version, false));
            continue;
        }
        let version = sqlx::query_scalar(
            "INSERT INTO prices (tenant_id, provider, model, effective_from, created_at, price) \
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING version",
        )
        .bind(tenant)
        .bind(&price.provider)
        .bind(&price.model)
        .bind(price.effective_from_us)
        .bind(now_us)
        .bind(text)
        .fetch_one(&mut *connection)
        .await
        .map_err(unavailable)?;
        versions.push((version, true));
    }
    Ok(versions)
}

/// Reads a tenant's own prices and the shipped ones, of versions after `after`.
pub(super) async fn read(
    pool: &PgPool,
    tenant: &str,
    after: i64,
) -> Result<Vec<StoredPrice>, Error> {
    let rows = sqlx::query(
        "SELECT version, tenant_id, price FROM prices \
         WHERE tenant_id IN ('', $1) AND version > $2 ORDER BY version",
    )
    .bind(tenant)
    .bind(after)
    .fetch_all(pool)
    .await
    .map_err(unavailable)?;
    rows.iter()
        .map(|row| {
            let text: &str = row.value("price")?;
            let mut price: Price =
                serde_json::from_str(text).map_err(|e| Error::Corrupt(format!("price: {e}")))?;
            price.version = row.value("version")?;
            let tenant: &str = row.value("tenant_id")?;
            Ok(StoredPrice {
                price,
                shipped: tenant.is_empty(),
            })
        })
        .collect()
}

/// The last version of all tenants.
pub(super) async fn last_version(pool: &PgPool) -> Result<i64, Error> {
    sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM prices")
        .fetch_one(pool)
        .await
        .map_err(unavailable)
}
