-- Closed months of users, and the periodic jobs.

-- A closed month. as_closed has the figures of all lines up to the position closed_at_position, as
-- JSON by name, and is never changed. What came later is read from the lines. Before those with a
-- charge time before settled_before are dropped, adjusted gets the figures, and adjustments the
-- changes, of all lines up to settled_at_position.
CREATE TABLE periods (
    tenant_id           TEXT    NOT NULL,
    user_id             TEXT    NOT NULL,
    period_id           TEXT    NOT NULL,
    start_time          INTEGER NOT NULL,
    end_time            INTEGER NOT NULL,
    closed_at           INTEGER NOT NULL,
    closed_at_position  INTEGER NOT NULL,
    as_closed           TEXT    NOT NULL,
    settled_before      INTEGER,
    settled_at_position INTEGER,
    adjusted            TEXT,
    adjustments         TEXT,
    PRIMARY KEY (tenant_id, user_id, period_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX periods_to_settle ON periods (start_time)
    WHERE settled_before IS NULL OR settled_before < end_time;

-- A user's uses of tools in a month.
CREATE INDEX tool_invocations_by_user ON tool_invocations (tenant_id, user_id, start_time);

-- Periodic jobs, one row for each that ever ran. Until lease_until nobody else may take one; each
-- taking has a new generation. last_key is the last period that was done, as 2026-07. A row that says
-- running after lease_until is of a node that died.
CREATE TABLE jobs (
    name        TEXT    NOT NULL PRIMARY KEY,
    node        TEXT    NOT NULL,
    generation  INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    last_start  INTEGER NOT NULL,
    last_end    INTEGER,
    running     INTEGER NOT NULL,
    succeeded   INTEGER,
    detail      TEXT    NOT NULL,
    last_key    TEXT    NOT NULL,
    failures    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
