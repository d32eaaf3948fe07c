-- Repeated requests, and what is recorded beside usage: tool invocations, messages, champion cases.

-- Requests that are named by a request_id, with what they answered: a repeat finds its first answer,
-- and the same id with another content is told from it. Written in the transaction of the work.
CREATE TABLE requests (
    tenant_id    TEXT   COLLATE "C" NOT NULL,
    request_id   TEXT   COLLATE "C" NOT NULL,
    rpc          TEXT   NOT NULL,
    fingerprint  BYTEA  NOT NULL,
    user_id      TEXT   COLLATE "C" NOT NULL,
    requested_at BIGINT NOT NULL,
    answer       TEXT   NOT NULL,
    PRIMARY KEY (tenant_id, request_id)
);

-- Uses of tools. `number` is made as a position is, so that lists can be read as of one. A use that was reported as started is updated
-- once, by its end; then started_fingerprint still knows the start from another content.
CREATE TABLE tool_invocations (
    number              BIGINT NOT NULL,
    tenant_id           TEXT   COLLATE "C" NOT NULL,
    invocation_id       TEXT   COLLATE "C" NOT NULL,
    fingerprint         BYTEA  NOT NULL,
    started_fingerprint BYTEA,
    tool                TEXT   COLLATE "C" NOT NULL,
    tool_use_id         TEXT   COLLATE "C" NOT NULL,
    user_id             TEXT   COLLATE "C" NOT NULL,
    session_id          TEXT   COLLATE "C" NOT NULL,
    turn                BIGINT,
    status              TEXT   COLLATE "C" NOT NULL
        CHECK (status IN ('started', 'succeeded', 'failed', 'cancelled')),
    start_time          BIGINT NOT NULL,
    duration_ms         BIGINT,
    error_type          TEXT   COLLATE "C" NOT NULL,
    estimated_tokens    BIGINT NOT NULL,
    labels              TEXT   COLLATE "C",
    recorded_at         BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, invocation_id)
);
CREATE INDEX tool_invocations_by_time ON tool_invocations (tenant_id, start_time);
CREATE INDEX tool_invocations_by_session ON tool_invocations (tenant_id, session_id)
    WHERE session_id <> '';

-- Facts about messages that carry no usage of their own. Never their text.
CREATE TABLE messages (
    number          BIGINT NOT NULL,
    tenant_id       TEXT   COLLATE "C" NOT NULL,
    message_id      TEXT   COLLATE "C" NOT NULL,
    fingerprint     BYTEA  NOT NULL,
    user_id         TEXT   COLLATE "C" NOT NULL,
    session_id      TEXT   COLLATE "C" NOT NULL,
    role            TEXT   COLLATE "C" NOT NULL
        CHECK (role IN ('user', 'assistant', 'tool', 'system')),
    message_type    TEXT   COLLATE "C" NOT NULL,
    sequence        BIGINT,
    stop_reason     TEXT   COLLATE "C" NOT NULL,
    tool_use_id     TEXT   COLLATE "C" NOT NULL,
    source_event_id TEXT   COLLATE "C" NOT NULL,
    tokens          BIGINT,
    time            BIGINT NOT NULL,
    turn            BIGINT,
    recorded_at     BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, message_id)
);
CREATE INDEX messages_by_session ON messages (tenant_id, session_id);

-- Champion cases, reported on their own.
CREATE TABLE champion_cases (
    number      BIGINT NOT NULL,
    tenant_id   TEXT   COLLATE "C" NOT NULL,
    report_id   TEXT   COLLATE "C" NOT NULL,
    fingerprint BYTEA  NOT NULL,
    user_id     TEXT   COLLATE "C" NOT NULL,
    session_id  TEXT   COLLATE "C" NOT NULL,
    event_id    TEXT   COLLATE "C" NOT NULL,
    cases       BIGINT NOT NULL,
    time        BIGINT NOT NULL,
    recorded_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, report_id)
);
CREATE INDEX champion_cases_by_user ON champion_cases (tenant_id, user_id, time);
