-- The least that holds the same events: what the floor of `record --ledger postgres:` writes to.
-- The same columns and secondary indexes as the ledger's usage_lines, the same key to tell a retry
-- by, and the same totals; without its checks, its partitions, and its state.

CREATE TABLE events (
    position       BIGINT  PRIMARY KEY,
    tenant_id      TEXT COLLATE "C" NOT NULL,
    event_id       TEXT COLLATE "C" NOT NULL,
    line           BIGINT  NOT NULL,
    line_count     BIGINT  NOT NULL,
    kind           TEXT COLLATE "C" NOT NULL,
    of_position    BIGINT ,
    user_id        TEXT COLLATE "C" NOT NULL,
    team_id        TEXT COLLATE "C" NOT NULL,
    session_id     TEXT COLLATE "C" NOT NULL,
    turn           BIGINT ,
    provider       TEXT COLLATE "C" NOT NULL,
    model          TEXT COLLATE "C" NOT NULL,
    request_time   BIGINT ,
    charge_time    BIGINT  NOT NULL,
    recorded_at    BIGINT  NOT NULL,
    requests       BIGINT  NOT NULL,
    unpriced_lines BIGINT  NOT NULL,
    input          BIGINT  NOT NULL,
    cache_read     BIGINT  NOT NULL,
    cache_write_5m BIGINT  NOT NULL,
    cache_write_30m BIGINT  NOT NULL,
    cache_write_1h BIGINT  NOT NULL,
    cache_write_12h BIGINT  NOT NULL,
    cache_write_unspecified BIGINT  NOT NULL,
    output         BIGINT  NOT NULL,
    reasoning      BIGINT  NOT NULL,
    input_audio    BIGINT  NOT NULL,
    input_image    BIGINT  NOT NULL,
    tool_use_prompt BIGINT  NOT NULL,
    cache_read_audio BIGINT  NOT NULL,
    output_audio   BIGINT  NOT NULL,
    output_image   BIGINT  NOT NULL,
    tool_requests  TEXT,
    cost_nano_usd  BIGINT  NOT NULL,
    cache_saving_nano_usd BIGINT  NOT NULL,
    cache_write_extra_nano_usd BIGINT  NOT NULL,
    price_version  BIGINT ,
    status         TEXT COLLATE "C" NOT NULL,
    latency_ms     BIGINT ,
    time_to_first_token_ms BIGINT ,
    service_tier   TEXT COLLATE "C" NOT NULL,
    inference_region TEXT  NOT NULL,
    stop_reason    TEXT COLLATE "C" NOT NULL,
    thinking_enabled BOOLEAN,
    thinking_budget_tokens BIGINT ,
    message        TEXT,
    retrieval_ran  BOOLEAN,
    cases_retrieved BIGINT ,
    succeeded      BOOLEAN,
    labels         TEXT,
    reservation_id TEXT COLLATE "C" NOT NULL
);
CREATE INDEX events_by_tenant ON events (tenant_id, charge_time);
CREATE INDEX events_by_user ON events (tenant_id, user_id, charge_time);
CREATE INDEX events_by_session ON events (tenant_id, session_id, charge_time)
    WHERE session_id <> '';
CREATE INDEX events_unpriced ON events (tenant_id, provider, model, position)
    WHERE unpriced_lines = 1;
CREATE INDEX events_corrections ON events (of_position) WHERE of_position IS NOT NULL;

CREATE TABLE dedup (
    tenant_id   TEXT COLLATE "C" NOT NULL,
    event_id    TEXT COLLATE "C" NOT NULL,
    fingerprint BYTEA   NOT NULL,
    position    BIGINT  NOT NULL,
    PRIMARY KEY (tenant_id, event_id)
);

CREATE TABLE totals (
    tenant_id      TEXT COLLATE "C" NOT NULL,
    scope          TEXT COLLATE "C" NOT NULL,
    subject        TEXT COLLATE "C" NOT NULL,
    bucket         BIGINT  NOT NULL,
    requests       BIGINT  NOT NULL,
    succeeded      BIGINT  NOT NULL,
    failed         BIGINT  NOT NULL,
    interrupted    BIGINT  NOT NULL,
    input          BIGINT  NOT NULL,
    cache_read     BIGINT  NOT NULL,
    cache_write_5m BIGINT  NOT NULL,
    cache_write_30m BIGINT  NOT NULL,
    cache_write_1h BIGINT  NOT NULL,
    cache_write_12h BIGINT  NOT NULL,
    cache_write_unspecified BIGINT  NOT NULL,
    output         BIGINT  NOT NULL,
    reasoning      BIGINT  NOT NULL,
    input_audio    BIGINT  NOT NULL,
    input_image    BIGINT  NOT NULL,
    tool_use_prompt BIGINT  NOT NULL,
    cache_read_audio BIGINT  NOT NULL,
    output_audio   BIGINT  NOT NULL,
    output_image   BIGINT  NOT NULL,
    tool_requests  BIGINT  NOT NULL,
    cost_nano_usd  BIGINT  NOT NULL,
    cache_saving_nano_usd BIGINT  NOT NULL,
    cache_write_extra_nano_usd BIGINT  NOT NULL,
    lines          BIGINT  NOT NULL,
    unpriced_lines BIGINT  NOT NULL,
    latency_ms     BIGINT  NOT NULL,
    latency_events BIGINT  NOT NULL,
    updated_at     BIGINT  NOT NULL,
    PRIMARY KEY (tenant_id, scope, subject, bucket)
) WITH (fillfactor = 80);
