-- Voids, reprice runs and repeated requests, and what is recorded beside usage: tool invocations,
-- messages, champion cases.

-- What a correcting row is for: the reason of a void, the run of a reprice. The last column, so that
-- rows without one stay as short as they were.
ALTER TABLE usage_lines ADD COLUMN correction TEXT;

-- With it resume tokens are sealed. A new ledger has another, so that no token of another ledger is
-- ever taken for one of this.
ALTER TABLE ledger_state ADD COLUMN secret BLOB NOT NULL DEFAULT x'';
UPDATE ledger_state SET secret = randomblob(32);

-- Each time that the ledger was opened, and the last position before it. A token names the opening
-- in which it was issued: one that a copy of this file issued after it was copied, or that this file
-- issued before a copy took its place, is told from those whose positions still hold.
CREATE TABLE openings (
    number         INTEGER PRIMARY KEY,
    opening        TEXT    NOT NULL UNIQUE,
    after_position INTEGER NOT NULL
) STRICT;

-- Requests that are named by a request_id, with what they answered: a repeat finds its first answer,
-- and the same id with another content is told from it. Written in the transaction of the work.
CREATE TABLE requests (
    tenant_id    TEXT    NOT NULL,
    request_id   TEXT    NOT NULL,
    rpc          TEXT    NOT NULL,
    fingerprint  BLOB    NOT NULL,
    user_id      TEXT    NOT NULL,
    requested_at INTEGER NOT NULL,
    answer       TEXT    NOT NULL,
    PRIMARY KEY (tenant_id, request_id)
) STRICT, WITHOUT ROWID;

-- Uses of tools. `number` is their order of arrival. A use that was reported as started is updated
-- once, by its end; then started_fingerprint still knows the start from another content.
CREATE TABLE tool_invocations (
    number              INTEGER PRIMARY KEY,
    tenant_id           TEXT    NOT NULL,
    invocation_id       TEXT    NOT NULL,
    fingerprint         BLOB    NOT NULL,
    started_fingerprint BLOB,
    tool                TEXT    NOT NULL,
    tool_use_id         TEXT    NOT NULL,
    user_id             TEXT    NOT NULL,
    session_id          TEXT    NOT NULL,
    turn                INTEGER,
    status              TEXT    NOT NULL
        CHECK (status IN ('started', 'succeeded', 'failed', 'cancelled')),
    start_time          INTEGER NOT NULL,
    duration_ms         INTEGER,
    error_type          TEXT    NOT NULL,
    estimated_tokens    INTEGER NOT NULL,
    labels              TEXT,
    recorded_at         INTEGER NOT NULL,
    UNIQUE (tenant_id, invocation_id)
) STRICT;
CREATE INDEX tool_invocations_by_time ON tool_invocations (tenant_id, start_time);
CREATE INDEX tool_invocations_by_session ON tool_invocations (tenant_id, session_id)
    WHERE session_id <> '';

-- Facts about messages that carry no usage of their own. Never their text.
CREATE TABLE messages (
    number          INTEGER PRIMARY KEY,
    tenant_id       TEXT    NOT NULL,
    message_id      TEXT    NOT NULL,
    fingerprint     BLOB    NOT NULL,
    user_id         TEXT    NOT NULL,
    session_id      TEXT    NOT NULL,
    role            TEXT    NOT NULL CHECK (role IN ('user', 'assistant', 'tool', 'system')),
    message_type    TEXT    NOT NULL,
    sequence        INTEGER,
    stop_reason     TEXT    NOT NULL,
    tool_use_id     TEXT    NOT NULL,
    source_event_id TEXT    NOT NULL,
    tokens          INTEGER,
    time            INTEGER NOT NULL,
    turn            INTEGER,
    recorded_at     INTEGER NOT NULL,
    UNIQUE (tenant_id, message_id)
) STRICT;
CREATE INDEX messages_by_session ON messages (tenant_id, session_id);

-- Champion cases, reported on their own.
CREATE TABLE champion_cases (
    number      INTEGER PRIMARY KEY,
    tenant_id   TEXT    NOT NULL,
    report_id   TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL,
    user_id     TEXT    NOT NULL,
    session_id  TEXT    NOT NULL,
    event_id    TEXT    NOT NULL,
    cases       INTEGER NOT NULL,
    time        INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    UNIQUE (tenant_id, report_id)
) STRICT;
CREATE INDEX champion_cases_by_user ON champion_cases (tenant_id, user_id, time);
