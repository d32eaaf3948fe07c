//! The schemas of the two dialects side by side: tables, columns, types, keys, indexes and views are
//! the same but for the differences named here, each with its reason.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::collections::{BTreeMap, BTreeSet};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokenmeter_store::address::Address;
use tokenmeter_store::migrate;

/// What the dialects differ in: the thing, what SQLite has, what PostgreSQL has.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    // The position counts up in SQLite; in PostgreSQL it is made of the transaction's number.
    ("column ledger_state.last_position", "integer", "-"),
    ("column ledger_state.base", "-", "integer"),
    // Which server a PostgreSQL ledger is on, so that a dump that was restored elsewhere is told.
    ("column ledger_state.system_identifier", "-", "text"),
    ("column ledger_state.database_oid", "-", "integer"),
    ("column ledger_state.table_oid", "-", "integer"),
    ("column openings.server_start", "-", "integer"),
    ("unique openings (server_start)", "-", "yes"),
    // Lists by position go through it; its rows say which partitions to read.
    ("column commits.tenant_id", "-", "text"),
    ("column commits.last_position", "-", "integer"),
    ("column commits.first_position", "-", "integer"),
    ("column commits.first_charge_time", "-", "integer"),
    ("column commits.last_charge_time", "-", "integer"),
    ("key commits", "-", "tenant_id, last_position"),
    ("index commits_by_position", "-", "last_position"),
    // Where the lines of an event are: the partition too.
    ("column event_keys.charge_time", "-", "integer"),
    // SQLite has no boolean.
    (
        "column usage_lines.thinking_enabled",
        "integer?",
        "boolean?",
    ),
    ("column usage_lines.retrieval_ran", "integer?", "boolean?"),
    ("column usage_lines.succeeded", "integer?", "boolean?"),
    ("column jobs.running", "integer", "boolean"),
    ("column jobs.succeeded", "integer?", "boolean?"),
    ("column token_budgets.enforced", "integer?", "boolean?"),
    ("column limit_hits.hard", "integer", "boolean"),
    // Every key starts with the tenant, and a partitioned table's has what it is partitioned by.
    (
        "key usage_lines",
        "position",
        "tenant_id, position, charge_time",
    ),
    (
        "index usage_lines_corrections",
        "of_position",
        "tenant_id, of_position",
    ),
    // Numbers are given out by the one writer of SQLite; nodes that write at once have none to share.
    ("key tool_invocations", "number", "tenant_id, invocation_id"),
    (
        "unique tool_invocations (tenant_id, invocation_id)",
        "yes",
        "-",
    ),
    ("key drifts", "number", "tenant_id, number"),
    ("key limit_hits", "number", "tenant_id, number"),
    ("key messages", "number", "tenant_id, message_id"),
    ("unique messages (tenant_id, message_id)", "yes", "-"),
    ("key champion_cases", "number", "tenant_id, report_id"),
    ("unique champion_cases (tenant_id, report_id)", "yes", "-"),
];

/// Tables of PostgreSQL whose keys need no tenant: one row, or a row for each start, version or job.
const WITHOUT_TENANT: &[&str] = &[
    "ledger_state",
    "openings",
    "prices",
    "jobs",
    "limits_version",
];

/// What a schema has, by the name of the thing.
type Schema = BTreeMap<String, String>;

#[tokio::test]
async fn the_two_dialects_have_one_schema() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.db");
    migrate::run(&Address::Sqlite(path.clone())).await.unwrap();
    let file = SqliteConnectOptions::new().filename(path);
    let sqlite = of_sqlite(&mut file.connect().await.unwrap()).await;

    let mut connection = postgres("schema").await;
    let postgres = of_postgres(&mut connection).await;
    connection.close().await.unwrap();

    let none = "-".to_owned();
    let names = sqlite.keys().chain(postgres.keys());
    let found: BTreeSet<_> = names
        .map(|name| {
            let of = |schema: &Schema| schema.get(name).unwrap_or(&none).clone();
            (name.clone(), of(&sqlite), of(&postgres))
        })
        .filter(|(_, one, other)| one != other)
        .collect();
    let documented: BTreeSet<_> = DIFFERENCES
        .iter()
        .map(|(name, one, other)| ((*name).into(), (*one).into(), (*other).into()))
        .collect();
    let unknown: Vec<_> = found.difference(&documented).collect();
    assert!(unknown.is_empty(), "without a reason: {unknown:#?}");
    let gone: Vec<_> = documented.difference(&found).collect();
    assert!(gone.is_empty(), "named and not there: {gone:#?}");
    assert_eq!(
        sqlite
            .keys()
            .filter(|name| name.starts_with("view "))
            .count(),
        5
    );
}

/// So that the ledger can be distributed by tenant without a change of schema.
#[tokio::test]
async fn every_key_of_postgres_starts_with_the_tenant() {
    let mut connection = postgres("tenant_keys").await;
    let schema = of_postgres(&mut connection).await;
    connection.close().await.unwrap();
    let mut keys = 0;
    for (name, columns) in schema {
        let Some(table) = name.strip_prefix("key ") else {
            continue;
        };
        keys += 1;
        assert!(
            columns.split(", ").next() == Some("tenant_id") || WITHOUT_TENANT.contains(&table),
            "{table}: {columns}"
        );
    }
    assert!(keys > 8, "{keys}");
}

/// A database of its own with the newest schema.
async fn postgres(name: &str) -> PgConnection {
    let url = tokenmeter_test_postgres::shared().database(name);
    migrate::run(&Address::parse(&url).unwrap()).await.unwrap();
    url.parse::<PgConnectOptions>()
        .unwrap()
        .connect()
        .await
        .unwrap()
}

/// Rows of (table, column, type, nullable).
fn columns(rows: Vec<(String, String, String, bool)>) -> impl Iterator<Item = (String, String)> {
    rows.into_iter().map(|(table, column, kind, nullable)| {
        let family = match kind.to_ascii_lowercase().as_str() {
            "integer" | "bigint" => "integer",
            "blob" | "bytea" => "bytes",
            "text" => "text",
            "boolean" => "boolean",
            other => panic!("{table}.{column} is {other}, which no schema of ours uses"),
        };
        let mark = if nullable { "?" } else { "" };
        (
            format!("column {table}.{column}"),
            format!("{family}{mark}"),
        )
    })
}

async fn of_sqlite(connection: &mut SqliteConnection) -> Schema {
    // The columns of a primary key hold no null, whether the table says so or not.
    let sql = r#"SELECT t.name, c.name, c.type, c."notnull" = 0 AND c.pk = 0
        FROM sqlite_schema AS t JOIN pragma_table_info(t.name) AS c
        WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite\_%' ESCAPE '\'
          AND t.name <> '_sqlx_migrations'"#;
    let rows = sqlx::query_as(sql).fetch_all(&mut *connection).await;
    let mut schema: Schema = columns(rows.unwrap()).collect();
    let things = [
        r#"SELECT 'key ' || t.name, group_concat(c.name, ', ' ORDER BY c.pk)
           FROM sqlite_schema AS t JOIN pragma_table_info(t.name) AS c
           WHERE t.type = 'table' AND c.pk > 0 AND t.name NOT LIKE 'sqlite\_%' ESCAPE '\'
             AND t.name <> '_sqlx_migrations'
           GROUP BY t.name"#,
        r#"SELECT 'unique ' || name || ' (' || columns || ')', 'yes'
           FROM (SELECT t.name, group_concat(c.name, ', ' ORDER BY c.seqno) AS columns
                 FROM sqlite_schema AS t JOIN pragma_index_list(t.name) AS i
                 JOIN pragma_index_info(i.name) AS c
                 WHERE t.type = 'table' AND i.origin = 'u'
                 GROUP BY t.name, i.name)"#,
        r#"SELECT 'index ' || i.name, group_concat(c.name, ', ' ORDER BY c.seqno)
           FROM sqlite_schema AS i JOIN pragma_index_info(i.name) AS c
           WHERE i.type = 'index' AND i.sql IS NOT NULL
           GROUP BY i.name"#,
        r#"SELECT 'view ' || v.name, group_concat(c.name, ', ' ORDER BY c.cid)
           FROM sqlite_schema AS v JOIN pragma_table_info(v.name) AS c
           WHERE v.type = 'view'
           GROUP BY v.name"#,
    ];
    for sql in things {
        let rows = sqlx::query_as::<_, (String, String)>(sql);
        schema.extend(rows.fetch_all(&mut *connection).await.unwrap());
    }
    schema
}

async fn of_postgres(connection: &mut PgConnection) -> Schema {
    // Tables that are no partitions; partitions are like their table.
    let sql = "SELECT t.relname::text, c.attname::text, format_type(c.atttypid, c.atttypmod),
               NOT c.attnotnull
        FROM pg_class AS t JOIN pg_attribute AS c ON c.attrelid = t.oid
        WHERE t.relnamespace = 'public'::regnamespace AND t.relkind IN ('r', 'p')
          AND NOT t.relispartition AND t.relname <> '_sqlx_migrations'
          AND c.attnum > 0 AND NOT c.attisdropped";
    let rows = sqlx::query_as(sql).fetch_all(&mut *connection).await;
    let mut schema: Schema = columns(rows.unwrap()).collect();
    let things = [
        "SELECT 'key ' || t.relname, string_agg(c.attname::text, ', ' ORDER BY k.place)
         FROM pg_constraint AS p JOIN pg_class AS t ON t.oid = p.conrelid
         CROSS JOIN LATERAL unnest(p.conkey) WITH ORDINALITY AS k(number, place)
         JOIN pg_attribute AS c ON c.attrelid = t.oid AND c.attnum = k.number
         WHERE t.relnamespace = 'public'::regnamespace AND p.contype = 'p'
           AND NOT t.relispartition AND t.relname <> '_sqlx_migrations'
         GROUP BY t.relname",
        "SELECT 'unique ' || table_name || ' (' || columns || ')', 'yes'
         FROM (SELECT t.relname AS table_name,
                      string_agg(c.attname::text, ', ' ORDER BY k.place) AS columns
               FROM pg_constraint AS p JOIN pg_class AS t ON t.oid = p.conrelid
               CROSS JOIN LATERAL unnest(p.conkey) WITH ORDINALITY AS k(number, place)
               JOIN pg_attribute AS c ON c.attrelid = t.oid AND c.attnum = k.number
               WHERE t.relnamespace = 'public'::regnamespace AND p.contype = 'u'
                 AND NOT t.relispartition
               GROUP BY t.relname, p.conname) AS u",
        "SELECT 'index ' || i.relname, string_agg(c.attname::text, ', ' ORDER BY k.place)
         FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid
         JOIN pg_class AS t ON t.oid = x.indrelid
         CROSS JOIN LATERAL unnest(x.indkey::smallint[]) WITH ORDINALITY AS k(number, place)
         JOIN pg_attribute AS c ON c.attrelid = t.oid AND c.attnum = k.number
         WHERE t.relnamespace = 'public'::regnamespace AND NOT t.relispartition
           AND NOT EXISTS (SELECT 1 FROM pg_constraint AS p WHERE p.conindid = i.oid)
         GROUP BY i.relname",
        "SELECT 'view ' || v.relname, string_agg(c.attname::text, ', ' ORDER BY c.attnum)
         FROM pg_class AS v JOIN pg_attribute AS c ON c.attrelid = v.oid
         WHERE v.relnamespace = 'public'::regnamespace AND v.relkind = 'v' AND c.attnum > 0
         GROUP BY v.relname",
    ];
    for sql in things {
        let rows = sqlx::query_as::<_, (String, String)>(sql);
        schema.extend(rows.fetch_all(&mut *connection).await.unwrap());
    }
    schema
}
