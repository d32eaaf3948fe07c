-- Retention and reconciliation. docs/retention.md tells how they work.

-- Events charged before this are refused, and are being or have been dropped: the first instant of a
-- month of UTC, 0 when nothing is sealed.
ALTER TABLE ledger_state ADD COLUMN sealed_before INTEGER NOT NULL DEFAULT 0;

-- Sums of the lines that were dropped, by month of UTC (its first instant), subject and model. They
-- move here in the transaction that drops the lines, so that every lifetime total is at every moment
-- this plus the sum of its lines.
CREATE TABLE sealed_totals (
    tenant_id      TEXT    NOT NULL,
    scope          TEXT    NOT NULL CHECK (scope IN ('user', 'team', 'session')),
    subject        TEXT    NOT NULL,
    month          INTEGER NOT NULL,
    provider       TEXT    NOT NULL,
    model          TEXT    NOT NULL,
    requests       INTEGER NOT NULL,
    succeeded      INTEGER NOT NULL,
    failed         INTEGER NOT NULL,
    interrupted    INTEGER NOT NULL,
    input          INTEGER NOT NULL,
    cache_read     INTEGER NOT NULL,
    cache_write_5m INTEGER NOT NULL,
    cache_write_30m INTEGER NOT NULL,
    cache_write_1h INTEGER NOT NULL,
    cache_write_12h INTEGER NOT NULL,
    cache_write_unspecified INTEGER NOT NULL,
    output         INTEGER NOT NULL,
    reasoning      INTEGER NOT NULL,
    input_audio    INTEGER NOT NULL,
    input_image    INTEGER NOT NULL,
    tool_use_prompt INTEGER NOT NULL,
    cache_read_audio INTEGER NOT NULL,
    output_audio   INTEGER NOT NULL,
    output_image   INTEGER NOT NULL,
    tool_requests  INTEGER NOT NULL,
    cost_nano_usd  INTEGER NOT NULL,
    cache_saving_nano_usd INTEGER NOT NULL,
    cache_write_extra_nano_usd INTEGER NOT NULL,
    lines          INTEGER NOT NULL,
    unpriced_lines INTEGER NOT NULL,
    latency_ms     INTEGER NOT NULL,
    latency_events INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, scope, subject, month, provider, model)
) STRICT, WITHOUT ROWID;

-- What is known of the dropped part of a session beside its sums. A user or a turn with events in
-- several dropped months counts once in each, unless it is the same single user in all.
CREATE TABLE sealed_sessions (
    tenant_id      TEXT    NOT NULL,
    session_id     TEXT    NOT NULL,
    user_id        TEXT    NOT NULL,
    users          INTEGER NOT NULL,
    turns          INTEGER NOT NULL,
    messages       INTEGER NOT NULL,
    first_time     INTEGER NOT NULL,
    last_time      INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, session_id)
) STRICT, WITHOUT ROWID;

-- After this position nothing of a tenant's log has been dropped. A tenant without a row has its
-- whole log.
CREATE TABLE log_starts (
    tenant_id      TEXT    PRIMARY KEY,
    position       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Fields of totals that differed from what they are the sum of. `bucket` is that of the total.
CREATE TABLE drifts (
    number         INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id      TEXT    NOT NULL,
    reconcile_id   TEXT    NOT NULL,
    scope          TEXT    NOT NULL CHECK (scope IN ('user', 'team', 'session', 'model')),
    subject        TEXT    NOT NULL,
    bucket         INTEGER NOT NULL,
    field          TEXT    NOT NULL,
    recorded       INTEGER NOT NULL,
    computed       INTEGER NOT NULL,
    drift_ppm      INTEGER,
    state          TEXT    NOT NULL
        CHECK (state IN ('reported', 'corrected', 'flagged', 'accepted')),
    found_at       INTEGER NOT NULL,
    resolved_at    INTEGER,
    UNIQUE (tenant_id, reconcile_id, scope, subject, bucket, field)
) STRICT;
CREATE INDEX drifts_by_state ON drifts (tenant_id, state, number);

-- Bills do not change when events are dropped.
DROP VIEW billing_summary;
CREATE VIEW billing_summary AS
WITH parts AS (
    SELECT tenant_id, user_id, charge_time / 1000000 AS seconds, provider, model, requests,
           CASE kind WHEN 'usage' THEN 1 WHEN 'void' THEN -1 ELSE 0 END AS lines,
           input, output, cache_read,
           cache_write_5m + cache_write_30m + cache_write_1h + cache_write_12h
               + cache_write_unspecified AS cache_write,
           cost_nano_usd, cache_saving_nano_usd, cache_write_extra_nano_usd, unpriced_lines
    FROM usage_lines
    UNION ALL
    SELECT tenant_id, subject, month / 1000000, provider, model, requests,
           lines,
           input, output, cache_read,
           cache_write_5m + cache_write_30m + cache_write_1h + cache_write_12h
               + cache_write_unspecified,
           cost_nano_usd, cache_saving_nano_usd, cache_write_extra_nano_usd, unpriced_lines
    FROM sealed_totals
    WHERE scope = 'user'
)
SELECT tenant_id, user_id, strftime('%Y-%m', seconds, 'unixepoch') AS month,
       provider, model,
       sum(requests) AS requests,
       sum(input + cache_read + cache_write) AS prompt_tokens,
       sum(output) AS completion_tokens,
       sum(input + cache_read + cache_write + output) AS total_tokens,
       sum(cache_read) AS cache_read_tokens,
       sum(cache_write) AS cache_write_tokens,
       sum(cost_nano_usd) AS cost_nano_usd,
       sum(cache_saving_nano_usd) AS cache_saving_nano_usd,
       sum(cache_write_extra_nano_usd) AS cache_write_extra_nano_usd,
       sum(unpriced_lines) AS unpriced_lines
FROM parts
GROUP BY tenant_id, user_id, month, provider, model
HAVING sum(lines) > 0;
