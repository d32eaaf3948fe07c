-- Retention and reconciliation, as migrations/sqlite has them; sealed_before is in ledger_state from the
-- beginning. docs/retention.md tells how they work.

-- Sums of the lines that were dropped, by month of UTC (its first instant), subject and model. They
-- move here in the transaction that drops the lines, so that every lifetime total is at every moment
-- this plus the sum of its lines.
CREATE TABLE sealed_totals (
    tenant_id      TEXT   COLLATE "C" NOT NULL,
    scope          TEXT   COLLATE "C" NOT NULL CHECK (scope IN ('user', 'team', 'session')),
    subject        TEXT   COLLATE "C" NOT NULL,
    month          BIGINT NOT NULL,
    provider       TEXT   COLLATE "C" NOT NULL,
    model          TEXT   COLLATE "C" NOT NULL,
    requests       BIGINT NOT NULL,
    succeeded      BIGINT NOT NULL,
    failed         BIGINT NOT NULL,
    interrupted    BIGINT NOT NULL,
    input          BIGINT NOT NULL,
    cache_read     BIGINT NOT NULL,
    cache_write_5m BIGINT NOT NULL,
    cache_write_30m BIGINT NOT NULL,
    cache_write_1h BIGINT NOT NULL,
    cache_write_12h BIGINT NOT NULL,
    cache_write_unspecified BIGINT NOT NULL,
    output         BIGINT NOT NULL,
    reasoning      BIGINT NOT NULL,
    input_audio    BIGINT NOT NULL,
    input_image    BIGINT NOT NULL,
    tool_use_prompt BIGINT NOT NULL,
    cache_read_audio BIGINT NOT NULL,
    output_audio   BIGINT NOT NULL,
    output_image   BIGINT NOT NULL,
    tool_requests  BIGINT NOT NULL,
    cost_nano_usd  BIGINT NOT NULL,
    cache_saving_nano_usd BIGINT NOT NULL,
    cache_write_extra_nano_usd BIGINT NOT NULL,
    lines          BIGINT NOT NULL,
    unpriced_lines BIGINT NOT NULL,
    latency_ms     BIGINT NOT NULL,
    latency_events BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, scope, subject, month, provider, model)
);

-- What is known of the dropped part of a session beside its sums. A user or a turn with events in
-- several dropped months counts once in each, unless it is the same single user in all.
CREATE TABLE sealed_sessions (
    tenant_id      TEXT   COLLATE "C" NOT NULL,
    session_id     TEXT   COLLATE "C" NOT NULL,
    user_id        TEXT   COLLATE "C" NOT NULL,
    users          BIGINT NOT NULL,
    turns          BIGINT NOT NULL,
    messages       BIGINT NOT NULL,
    first_time     BIGINT NOT NULL,
    last_time      BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, session_id)
);

-- After this position nothing of a tenant's log has been dropped. A tenant without a row has its
-- whole log.
CREATE TABLE log_starts (
    tenant_id      TEXT   COLLATE "C" PRIMARY KEY,
    position       BIGINT NOT NULL
);

-- Fields of totals that differed from what they are the sum of. `bucket` is that of the total.
CREATE TABLE drifts (
    number         BIGINT GENERATED ALWAYS AS IDENTITY,
    tenant_id      TEXT   COLLATE "C" NOT NULL,
    reconcile_id   TEXT   COLLATE "C" NOT NULL,
    scope          TEXT   COLLATE "C" NOT NULL CHECK (scope IN ('user', 'team', 'session', 'model')),
    subject        TEXT   COLLATE "C" NOT NULL,
    bucket         BIGINT NOT NULL,
    field          TEXT   COLLATE "C" NOT NULL,
    recorded       BIGINT NOT NULL,
    computed       BIGINT NOT NULL,
    drift_ppm      BIGINT,
    state          TEXT   COLLATE "C" NOT NULL
        CHECK (state IN ('reported', 'corrected', 'flagged', 'accepted')),
    found_at       BIGINT NOT NULL,
    resolved_at    BIGINT,
    PRIMARY KEY (tenant_id, number),
    UNIQUE (tenant_id, reconcile_id, scope, subject, bucket, field)
);
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
SELECT tenant_id, user_id,
       to_char(to_timestamp(seconds) AT TIME ZONE 'UTC', 'YYYY-MM') AS month,
       provider, model,
       sum(requests)::BIGINT AS requests,
       sum(input + cache_read + cache_write)::BIGINT AS prompt_tokens,
       sum(output)::BIGINT AS completion_tokens,
       sum(input + cache_read + cache_write + output)::BIGINT AS total_tokens,
       sum(cache_read)::BIGINT AS cache_read_tokens,
       sum(cache_write)::BIGINT AS cache_write_tokens,
       sum(cost_nano_usd)::BIGINT AS cost_nano_usd,
       sum(cache_saving_nano_usd)::BIGINT AS cache_saving_nano_usd,
       sum(cache_write_extra_nano_usd)::BIGINT AS cache_write_extra_nano_usd,
       sum(unpriced_lines)::BIGINT AS unpriced_lines
FROM parts
GROUP BY tenant_id, user_id, month, provider, model
HAVING sum(lines) > 0;
