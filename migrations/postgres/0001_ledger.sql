-- The production ledger: usage lines, the keys that make recording exactly-once, and the totals that
-- live in the same transaction. The tables mean what migrations/sqlite says; docs/schema.md tells what
-- each is for. Every key starts with tenant_id, so that the ledger can be distributed by tenant.
--
-- A position is base + (transaction id << 15) + the line's number in its transaction: the order of
-- positions is the order of transaction ids, and positions have gaps.

-- One row. Another system identifier, database or table than this one was made in means that a dump
-- was restored: then the epoch changes, and base is raised so that new positions follow all that the dump has. Events charged
-- before sealed_before are refused; writers read the row FOR SHARE, so that raising it waits for them.
CREATE TABLE ledger_state (
    id                BIGINT PRIMARY KEY CHECK (id = 1),
    epoch             TEXT   NOT NULL,
    secret            BYTEA  NOT NULL,
    base              BIGINT NOT NULL,
    sealed_before     BIGINT NOT NULL,
    system_identifier TEXT   NOT NULL,
    database_oid      BIGINT NOT NULL,
    table_oid         BIGINT NOT NULL
);
INSERT INTO ledger_state (
    id, epoch, secret, base, sealed_before, system_identifier, database_oid, table_oid)
SELECT 1, substr(md5(gen_random_uuid()::text), 1, 16),
       decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'),
       0, 0, system_identifier::text,
       (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),
       'ledger_state'::regclass::oid::bigint
FROM pg_control_system();

-- Each time that the server was started, and the last position before it. A token names the opening in
-- which it was issued, so that one of a past which a restore or a failover undid is told.
CREATE TABLE openings (
    number         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    opening        TEXT   NOT NULL UNIQUE,
    after_position BIGINT NOT NULL,
    server_start   BIGINT NOT NULL UNIQUE
);

-- One row a line, and one for each correction of a line, of the same charge time as the line: all rows
-- of an event are in one partition. Partitions are calendar months of UTC by charge time; writers make
-- those that are missing.
CREATE TABLE usage_lines (
    position       BIGINT  NOT NULL,
    tenant_id      TEXT    COLLATE "C" NOT NULL,
    event_id       TEXT    COLLATE "C" NOT NULL,
    line           BIGINT  NOT NULL,
    line_count     BIGINT  NOT NULL,
    kind           TEXT    COLLATE "C" NOT NULL CHECK (kind IN ('usage', 'void', 'reprice')),
    of_position    BIGINT,
    user_id        TEXT    COLLATE "C" NOT NULL,
    team_id        TEXT    COLLATE "C" NOT NULL,
    session_id     TEXT    COLLATE "C" NOT NULL,
    turn           BIGINT,
    provider       TEXT    COLLATE "C" NOT NULL,
    model          TEXT    COLLATE "C" NOT NULL,
    request_time   BIGINT,
    charge_time    BIGINT  NOT NULL,
    recorded_at    BIGINT  NOT NULL,
    requests       BIGINT  NOT NULL,
    unpriced_lines BIGINT  NOT NULL,
    input          BIGINT  NOT NULL,
    cache_read     BIGINT  NOT NULL,
    cache_write_5m BIGINT  NOT NULL,
    cache_write_30m BIGINT NOT NULL,
    cache_write_1h BIGINT  NOT NULL,
    cache_write_12h BIGINT NOT NULL,
    cache_write_unspecified BIGINT NOT NULL,
    output         BIGINT  NOT NULL,
    reasoning      BIGINT  NOT NULL,
    input_audio    BIGINT  NOT NULL,
    input_image    BIGINT  NOT NULL,
    tool_use_prompt BIGINT NOT NULL,
    cache_read_audio BIGINT NOT NULL,
    output_audio   BIGINT  NOT NULL,
    output_image   BIGINT  NOT NULL,
    tool_requests  TEXT    COLLATE "C",
    cost_nano_usd  BIGINT  NOT NULL,
    cache_saving_nano_usd BIGINT NOT NULL,
    cache_write_extra_nano_usd BIGINT NOT NULL,
    price_version  BIGINT,
    status         TEXT    COLLATE "C" NOT NULL,
    latency_ms     BIGINT,
    time_to_first_token_ms BIGINT,
    service_tier   TEXT    COLLATE "C" NOT NULL,
    inference_region TEXT  COLLATE "C" NOT NULL,
    stop_reason    TEXT    COLLATE "C" NOT NULL,
    thinking_enabled BOOLEAN,
    thinking_budget_tokens BIGINT,
    message        TEXT    COLLATE "C",
    retrieval_ran  BOOLEAN,
    cases_retrieved BIGINT,
    succeeded      BOOLEAN,
    labels         TEXT    COLLATE "C",
    reservation_id TEXT    COLLATE "C" NOT NULL,
    correction     TEXT    COLLATE "C",
    PRIMARY KEY (tenant_id, position, charge_time)
) PARTITION BY RANGE (charge_time);

CREATE INDEX usage_lines_by_tenant ON usage_lines (tenant_id, charge_time);
CREATE INDEX usage_lines_by_user ON usage_lines (tenant_id, user_id, charge_time);
CREATE INDEX usage_lines_by_session ON usage_lines (tenant_id, session_id, charge_time)
    WHERE session_id <> '';
CREATE INDEX usage_lines_unpriced ON usage_lines (tenant_id, provider, model, position)
    WHERE unpriced_lines = 1;
CREATE INDEX usage_lines_corrections ON usage_lines (tenant_id, of_position)
    WHERE of_position IS NOT NULL;

-- What has been accepted, kept longer than the lines: an id stands once, whatever is retried. Position
-- and charge time say where its lines are.
CREATE TABLE event_keys (
    tenant_id   TEXT   COLLATE "C" NOT NULL,
    event_id    TEXT   COLLATE "C" NOT NULL,
    fingerprint BYTEA  NOT NULL,
    position    BIGINT NOT NULL,
    charge_time BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, event_id)
);

-- What each transaction wrote for each tenant: where to look in usage_lines for what followed a
-- position, and whom it concerns. A few rows a transaction, however many events it has.
CREATE TABLE commits (
    tenant_id         TEXT   COLLATE "C" NOT NULL,
    last_position     BIGINT NOT NULL,
    first_position    BIGINT NOT NULL,
    first_charge_time BIGINT NOT NULL,
    last_charge_time  BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, last_position)
);
CREATE INDEX commits_by_position ON commits (last_position);

-- Sums of usage_lines by scope and subject; bucket 0 is the lifetime, any other a quarter-hour counted
-- from the Unix epoch. Rows are updated all the time: room in each page lets an update stay in it.
CREATE TABLE usage_totals (
    tenant_id      TEXT   COLLATE "C" NOT NULL,
    scope          TEXT   COLLATE "C" NOT NULL
        CHECK (scope IN ('user', 'team', 'session', 'model')),
    subject        TEXT   COLLATE "C" NOT NULL,
    bucket         BIGINT NOT NULL,
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
    PRIMARY KEY (tenant_id, scope, subject, bucket)
) WITH (fillfactor = 80);

-- The price book. A version is never changed; a new price is a new version. The tenant '' holds the
-- prices that ship with the binary.
CREATE TABLE prices (
    version        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id      TEXT   COLLATE "C" NOT NULL,
    provider       TEXT   COLLATE "C" NOT NULL,
    model          TEXT   COLLATE "C" NOT NULL,
    effective_from BIGINT NOT NULL,
    created_at     BIGINT NOT NULL,
    price          TEXT   NOT NULL
);
CREATE INDEX prices_by_model ON prices (tenant_id, provider, model, effective_from, version);

-- What a write takes: rows as arrays of these. A later version that writes more gets types of its own,
-- so that nodes of both versions can write. Positions are counted from the transaction's first.
CREATE TYPE new_key AS (
    tenant_id TEXT, event_id TEXT, fingerprint BYTEA, position BIGINT, charge_time BIGINT
);
CREATE TYPE new_line AS (
    position BIGINT, tenant_id TEXT, event_id TEXT, line BIGINT, line_count BIGINT, kind TEXT,
    user_id TEXT, team_id TEXT, session_id TEXT, turn BIGINT, provider TEXT, model TEXT,
    request_time BIGINT, charge_time BIGINT, recorded_at BIGINT, requests BIGINT, unpriced_lines
    BIGINT, input BIGINT, cache_read BIGINT, cache_write_5m BIGINT, cache_write_30m BIGINT,
    cache_write_1h BIGINT, cache_write_12h BIGINT, cache_write_unspecified BIGINT, output BIGINT,
    reasoning BIGINT, input_audio BIGINT, input_image BIGINT, tool_use_prompt BIGINT,
    cache_read_audio BIGINT, output_audio BIGINT, output_image BIGINT, tool_requests TEXT,
    cost_nano_usd BIGINT, cache_saving_nano_usd BIGINT, cache_write_extra_nano_usd BIGINT,
    price_version BIGINT, status TEXT, latency_ms BIGINT, time_to_first_token_ms BIGINT,
    service_tier TEXT, inference_region TEXT, stop_reason TEXT, thinking_enabled BOOLEAN,
    thinking_budget_tokens BIGINT, message TEXT, retrieval_ran BOOLEAN, cases_retrieved BIGINT,
    succeeded BOOLEAN, labels TEXT, reservation_id TEXT
);
CREATE TYPE new_sums AS (
    tenant_id TEXT, scope TEXT, subject TEXT, bucket BIGINT, requests BIGINT, succeeded BIGINT,
    failed BIGINT, interrupted BIGINT, input BIGINT, cache_read BIGINT, cache_write_5m BIGINT,
    cache_write_30m BIGINT, cache_write_1h BIGINT, cache_write_12h BIGINT, cache_write_unspecified
    BIGINT, output BIGINT, reasoning BIGINT, input_audio BIGINT, input_image BIGINT, tool_use_prompt
    BIGINT, cache_read_audio BIGINT, output_audio BIGINT, output_image BIGINT, tool_requests BIGINT,
    cost_nano_usd BIGINT, cache_saving_nano_usd BIGINT, cache_write_extra_nano_usd BIGINT, lines
    BIGINT, unpriced_lines BIGINT, latency_ms BIGINT, latency_events BIGINT, updated_at BIGINT
);
CREATE TYPE new_commit AS (
    tenant_id TEXT, first_position BIGINT, last_position BIGINT, first_charge_time BIGINT,
    last_charge_time BIGINT
);

-- Raised inside the statement that records a group when it cannot stand as it is: the statement leaves
-- nothing behind, and is made anew without what is in its way.
CREATE FUNCTION tokenmeter_refuse(code TEXT) RETURNS BIGINT LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the group cannot be recorded as it is' USING ERRCODE = code;
END
$$;
