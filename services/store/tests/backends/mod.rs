//! Backends for the suite.

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tempfile::TempDir;
use tokenmeter_store::sqlite::Sqlite;

/// A fresh, empty ledger in a folder of its own.
pub async fn open_sqlite() -> (Sqlite, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = reopen_sqlite(&folder).await;
    (ledger, folder)
}

/// The ledger in a folder, whoever else has it open.
pub async fn reopen_sqlite(folder: &TempDir) -> Sqlite {
    Sqlite::open(&folder.path().join("t.db")).await.unwrap()
}

/// Holds the write lock of the ledger in a folder until told to let go.
pub async fn stall_sqlite(folder: &TempDir) -> impl AsyncFnOnce() {
    let options = SqliteConnectOptions::new().filename(folder.path().join("t.db"));
    let mut connection: SqliteConnection = options.connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut connection)
        .await
        .unwrap();
    async move || {
        sqlx::query("ROLLBACK")
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }
}

/// Voids the event whose first line is at a position, in the ledger of a folder. Totals stay.
pub async fn void_sqlite(folder: &TempDir, position: i64) {
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("t.db"))
        .busy_timeout(std::time::Duration::from_secs(20));
    let mut connection: SqliteConnection = options.connect().await.unwrap();
    let sql = "BEGIN IMMEDIATE;
        INSERT INTO usage_lines SELECT
            s.last_position + 1 + line, tenant_id, event_id, line, line_count, 'void', position,
            user_id, team_id, session_id, turn, provider, model, request_time, charge_time,
            recorded_at + 1, -requests, -unpriced_lines, -input, -cache_read, -cache_write_5m,
            -cache_write_30m, -cache_write_1h, -cache_write_12h, -cache_write_unspecified, -output,
            -reasoning, -input_audio, -input_image, -tool_use_prompt, -cache_read_audio,
            -output_audio, -output_image, tool_requests, -cost_nano_usd, -cache_saving_nano_usd,
            -cache_write_extra_nano_usd, price_version, status, latency_ms, time_to_first_token_ms,
            service_tier, inference_region, stop_reason, thinking_enabled, thinking_budget_tokens,
            message, retrieval_ran, cases_retrieved, succeeded, labels, reservation_id, 'mistake'
        FROM usage_lines, ledger_state AS s
        WHERE position BETWEEN {position} AND {position} + 15 AND kind = 'usage'
            AND (tenant_id, event_id) = (SELECT tenant_id, event_id FROM usage_lines
                WHERE position = {position});
        UPDATE ledger_state SET last_position = (SELECT max(position) FROM usage_lines);
        COMMIT"
        .replace("{position}", &position.to_string());
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}
