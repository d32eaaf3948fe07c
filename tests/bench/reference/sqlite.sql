-- The least that holds the same events: what the floor of `record --ledger sqlite:` writes to.
-- The same columns and secondary indexes as the ledger's usage_lines, the same key to tell a retry
-- by, and the same totals; without its checks, its strict types, and its state.

CREATE TABLE events (
    position       INTEGER PRIMARY KEY,
    tenant_id      TEXT    NOT NULL,
    event_id       TEXT    NOT NULL,
    line           INTEGER NOT NULL,
    line_count     INTEGER NOT NULL,
    kind           TEXT    NOT NULL,
    of_position    INTEGER,
    user_id        TEXT    NOT NULL,
    team_id        TEXT    NOT NULL,
    session_id     TEXT    NOT NULL,
    turn           INTEGER,
    provider       TEXT    NOT NULL,
    model          TEXT    NOT NULL,
    request_time   INTEGER,
    charge_time    INTEGER NOT NULL,
    recorded_at    INTEGER NOT NULL,
    requests       INTEGER NOT NULL,
    unpriced_lines INTEGER NOT NULL,
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
    tool_requests  TEXT,
    cost_nano_usd  INTEGER NOT NULL,
    cache_saving_nano_usd INTEGER NOT NULL,
    cache_write_extra_nano_usd INTEGER NOT NULL,
    price_version  INTEGER,
    status         TEXT    NOT NULL,
    latency_ms     INTEGER,
    time_to_first_token_ms INTEGER,
    service_tier   TEXT    NOT NULL,
    inference_region TEXT  NOT NULL,
    stop_reason    TEXT    NOT NULL,
    thinking_enabled INTEGER,
    thinking_budget_tokens INTEGER,
    message        TEXT,
    retrieval_ran  INTEGER,
    cases_retrieved INTEGER,
    succeeded      INTEGER,
    labels         TEXT,
    reservation_id TEXT    NOT NULL
);
CREATE INDEX events_by_tenant ON events (tenant_id, charge_time);
CREATE INDEX events_by_user ON events (tenant_id, user_id, charge_time);
CREATE INDEX events_by_session ON events (tenant_id, session_id, charge_time)
    WHERE session_id <> '';
CREATE INDEX events_unpriced ON events (tenant_id, provider, model, position)
    WHERE unpriced_lines = 1;
CREATE INDEX events_corrections ON events (of_position) WHERE of_position IS NOT NULL;

CREATE TABLE dedup (
    tenant_id   TEXT    NOT NULL,
    event_id    TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL,
    position    INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, event_id)
) WITHOUT ROWID;

CREATE TABLE totals (
    tenant_id      TEXT    NOT NULL,
    scope          TEXT    NOT NULL,
    subject        TEXT    NOT NULL,
    bucket         INTEGER NOT NULL,
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
    PRIMARY KEY (tenant_id, scope, subject, bucket)
) WITHOUT ROWID;
