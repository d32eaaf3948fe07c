-- Closed months of users, and the periodic jobs.

-- A closed month. as_closed has the figures of all lines up to the position closed_at_position, as
-- JSON by name, and is never changed. What came later is read from the lines. Before those with a
-- charge time before settled_before are dropped, adjusted gets the figures, and adjustments the
-- changes, of all lines up to settled_at_position.
CREATE TABLE periods (
    tenant_id           TEXT   COLLATE "C" NOT NULL,
    user_id             TEXT   COLLATE "C" NOT NULL,
    period_id           TEXT   COLLATE "C" NOT NULL,
    start_time          BIGINT NOT NULL,
    end_time            BIGINT NOT NULL,
    closed_at           BIGINT NOT NULL,
    closed_at_position  BIGINT NOT NULL,
    as_closed           TEXT   NOT NULL,
    settled_before      BIGINT,
    settled_at_position BIGINT,
    adjusted            TEXT,
    adjustments         TEXT,
    PRIMARY KEY (tenant_id, user_id, period_id)
);
CREATE INDEX periods_to_settle ON periods (start_time)
    WHERE settled_before IS NULL OR settled_before < end_time;

-- A user's uses of tools in a month.
CREATE INDEX tool_invocations_by_user ON tool_invocations (tenant_id, user_id, start_time);

-- Periodic jobs, one row for each that ever ran. Until lease_until nobody else may take one; each
-- taking has a new generation. last_key is the last period that was done, as 2026-07. A row that says
-- running after lease_until is of a node that died.
CREATE TABLE jobs (
    name        TEXT    COLLATE "C" NOT NULL PRIMARY KEY,
    node        TEXT    COLLATE "C" NOT NULL,
    generation  BIGINT  NOT NULL,
    lease_until BIGINT  NOT NULL,
    last_start  BIGINT  NOT NULL,
    last_end    BIGINT,
    running     BOOLEAN NOT NULL,
    succeeded   BOOLEAN,
    detail      TEXT    COLLATE "C" NOT NULL,
    last_key    TEXT    COLLATE "C" NOT NULL,
    failures    BIGINT  NOT NULL
);
