//! The price book's table: versions are added, never changed.

use serde::{Deserialize, Serialize};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use tokenmeter_model::price::Price;

use super::{requests, unavailable};
use crate::ledger::correction::{PriceSet, PricesOutcome};
use crate::ledger::{Error, StoredPrice};
use crate::rows::Row as _;

/// What is remembered of a request that set prices.
#[derive(Serialize, Deserialize)]
struct Set {
    versions: Vec<(i64, bool)>,
    answer: String,
}

/// Adds the prices that do not stand yet, figure for figure, in one transaction.
pub(super) async fn add(
    connection: &mut SqliteConnection,
    tenant: &str,
    prices: Vec<Price>,
    now_us: i64,
) -> Result<Vec<(i64, bool)>, Error> {
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(unavailable)?;
    let versions = insert(&mut transaction, tenant, prices, now_us).await?;
    transaction.commit().await.map_err(unavailable)?;
    Ok(versions)
}

/// Adds prices as [`add`] does, once for each request: it is remembered in their transaction.
pub(super) async fn set(
    connection: &mut SqliteConnection,
    set: PriceSet,
) -> Result<PricesOutcome, Error> {
    let PriceSet {
        request,
        prices,
        answer,
    } = set;
    let tenant = request.tenant.as_str();
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(unavailable)?;
    let set = match requests::find(&mut *transaction, tenant, &request.request_id).await? {
        Some(before) if !before.is(&request) => return Ok(PricesOutcome::RequestConflict),
        Some(before) => serde_json::from_str(&before.answer)
            .map_err(|error| Error::Corrupt(format!("an answer: {error}")))?,
        None => {
            let versions = insert(&mut transaction, tenant, prices, request.at_us).await?;
            let set = Set { versions, answer };
            let text = serde_json::to_string(&set).map_err(|e| Error::Corrupt(e.to_string()))?;
            requests::put(&mut transaction, &request, &text).await?;
            transaction.commit().await.map_err(unavailable)?;
            set
        }
    };
    let Set { versions, answer } = set;
    Ok(PricesOutcome::Set { versions, answer })
}

/// Adds the prices that do not stand yet within a transaction.
async fn insert(
    connection: &mut SqliteConnection,
    tenant: &str,
    prices: Vec<Price>,
    now_us: i64,
) -> Result<Vec<(i64, bool)>, Error> {
    let mut versions = Vec::with_capacity(prices.len());
    for mut price in prices {
        price.version = 0;
        let text = serde_json::to_string(&price).map_err(|e| Error::Corrupt(e.to_string()))?;
        let standing: Option<(i64, String)> = sqlx::query_as(
            "SELECT version, price FROM prices WHERE tenant_id = ?1 AND provider = ?2 \
             AND model = ?3 AND effective_from = ?4 ORDER BY version DESC LIMIT 1",
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
        let added = sqlx::query(
            "INSERT INTO prices (tenant_id, provider, model, effective_from, created_at, price) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .bind(tenant)
        .bind(&price.provider)
        .bind(&price.model)
        .bind(price.effective_from_us)
        .bind(now_us)
        .bind(text)
        .execute(&mut *connection)
        .await
        .map_err(unavailable)?;
        versions.push((added.last_insert_rowid(), true));
    }
    Ok(versions)
}

/// Reads a tenant's own prices and the shipped ones, of versions after `after`.
pub(super) async fn read(
    pool: &SqlitePool,
    tenant: &str,
    after: i64,
) -> Result<Vec<StoredPrice>, Error> {
    let rows = sqlx::query(
        "SELECT version, tenant_id, price FROM prices \
         WHERE tenant_id IN ('', ?1) AND version > ?2 ORDER BY version",
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
