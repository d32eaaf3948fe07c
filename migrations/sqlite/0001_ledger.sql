-- The embedded ledger: usage lines, the keys that make recording exactly-once, and the totals
-- that live in the same transaction. docs/schema.md tells what each table is for.

-- One row. The epoch changes when a ledger is restored from a copy, so that old positions can be
-- told from new ones; last_position is the last one given out.
CREATE TABLE ledger_state (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    epoch         TEXT    NOT NULL,
    last_position INTEGER NOT NULL
) STRICT;
INSERT INTO ledger_state (id, epoch, last_position) VALUES (1, lower(hex(randomblob(8))), 0);

-- One row a line. An event of one line (nearly all) is one row; an event of several repeats its
-- facts on each, so that any question by model is a scan of one table. Corrections are rows too:
-- kind 'reprice' carries the difference in cost, and every total is the plain sum of its rows.
CREATE TABLE usage_lines (
    position       INTEGER PRIMARY KEY,
    tenant_id      TEXT    NOT NULL,
    event_id       TEXT    NOT NULL,
    line           INTEGER NOT NULL,
    line_count     INTEGER NOT NULL,
    kind           TEXT    NOT NULL CHECK (kind IN ('usage', 'void', 'reprice')),
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
) STRICT;

-- Lists run newest first within a tenant, a user or a session; sums at the ragged edges of a time
-- range use the same three.
CREATE INDEX usage_lines_by_tenant ON usage_lines (tenant_id, charge_time);
CREATE INDEX usage_lines_by_user ON usage_lines (tenant_id, user_id, charge_time);
CREATE INDEX usage_lines_by_session ON usage_lines (tenant_id, session_id, charge_time)
    WHERE session_id <> '';
-- Few rows: lines that wait for a price, and corrections by the line they correct.
CREATE INDEX usage_lines_unpriced ON usage_lines (tenant_id, provider, model, position)
    WHERE unpriced_lines = 1;
CREATE INDEX usage_lines_corrections ON usage_lines (of_position) WHERE of_position IS NOT NULL;

-- What has been accepted, kept longer than the lines: an id stands once, whatever is retried.
CREATE TABLE event_keys (
    tenant_id   TEXT    NOT NULL,
    event_id    TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL,
    position    INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, event_id)
) STRICT, WITHOUT ROWID;

-- Sums of usage_lines by scope and subject. bucket 0 is the lifetime; any other is a quarter-hour
-- counted from the Unix epoch. scope 'model' has the subject 'provider/model', and its sum over
-- all models is the tenant's. Sessions have a lifetime only: their own lines are few.
CREATE TABLE usage_totals (
    tenant_id      TEXT    NOT NULL,
    scope          TEXT    NOT NULL CHECK (scope IN ('user', 'team', 'session', 'model')),
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
) STRICT, WITHOUT ROWID;

-- The price book. A version is never changed; a new price is a new version. The tenant '' holds
-- the prices that ship with the binary.
CREATE TABLE prices (
    version        INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id      TEXT    NOT NULL,
    provider       TEXT    NOT NULL,
    model          TEXT    NOT NULL,
    effective_from INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    price          TEXT    NOT NULL
) STRICT;
CREATE INDEX prices_by_model ON prices (tenant_id, provider, model, effective_from, version);
