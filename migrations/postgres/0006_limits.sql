-- What limits there are and who has them, token budgets of sessions, and what came of limits, as
-- migrations/sqlite has them. docs/limits.md tells how they work.

-- One row: raised by every change of any tenant's profiles, assignments, limits, settings or budgets, in
-- its transaction, so that whoever has them cached can tell in one read whether anything changed.
CREATE TABLE limits_version (
    id      BIGINT PRIMARY KEY CHECK (id = 1),
    version BIGINT NOT NULL
);
INSERT INTO limits_version (id, version) VALUES (1, 1);

-- What an administrator decided for the tenant, as JSON. `version` is the limits_version of the last
-- change: it names this state of the row, here and below.
CREATE TABLE tenants (
    tenant_id  TEXT   COLLATE "C" NOT NULL PRIMARY KEY,
    settings   TEXT   NOT NULL,
    version    BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- Profiles, as JSON. The tenant '' holds those that ship with the binary; a tenant that changes one has
-- a row of its own from then on, which counts in its place.
CREATE TABLE profiles (
    tenant_id  TEXT   COLLATE "C" NOT NULL,
    profile_id TEXT   COLLATE "C" NOT NULL,
    profile    TEXT   NOT NULL,
    version    BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, profile_id)
);
INSERT INTO profiles (tenant_id, profile_id, profile, version, created_at, updated_at)
SELECT '', value ->> 'profile_id', value::TEXT, 1, now, now
FROM jsonb_array_elements('[
    {"profile_id": "free", "display_name": "Free", "failure_mode": "open", "limits": [
        {"name": "requests-per-minute", "scope": "user",
         "metric": "requests", "window": "minute", "amount": 10, "enforcement": "block"},
        {"name": "requests-per-hour", "scope": "user",
         "metric": "requests", "window": "hour", "amount": 50, "enforcement": "block"},
        {"name": "tokens-per-month", "scope": "user",
         "metric": "total_tokens", "window": "month", "amount": 1000000, "enforcement": "block"}]},
    {"profile_id": "pro", "display_name": "Pro", "failure_mode": "open", "limits": [
        {"name": "requests-per-minute", "scope": "user",
         "metric": "requests", "window": "minute", "amount": 30, "enforcement": "block"},
        {"name": "requests-per-hour", "scope": "user",
         "metric": "requests", "window": "hour", "amount": 300, "enforcement": "block"},
        {"name": "tokens-per-month", "scope": "user",
         "metric": "total_tokens", "window": "month", "amount": 10000000, "enforcement": "block"}]},
    {"profile_id": "enterprise", "display_name": "Enterprise", "failure_mode": "open", "limits": [
        {"name": "requests-per-minute", "scope": "user",
         "metric": "requests", "window": "minute", "amount": 60, "enforcement": "block"},
        {"name": "tokens-per-month", "scope": "user",
         "metric": "total_tokens", "window": "month", "amount": 100000000, "enforcement": "block"}]},
    {"profile_id": "unlimited", "display_name": "Unlimited", "failure_mode": "open", "limits": []}]') AS shipped (value),
    (SELECT (extract(epoch FROM now()) * 1000000)::BIGINT AS now) AS clock;

-- Who has which profile.
CREATE TABLE profile_assignments (
    tenant_id   TEXT   COLLATE "C" NOT NULL,
    scope       TEXT   COLLATE "C" NOT NULL CHECK (scope IN ('tenant', 'team', 'user')),
    subject     TEXT   COLLATE "C" NOT NULL,
    profile_id  TEXT   COLLATE "C" NOT NULL,
    assigned_at BIGINT NOT NULL,
    assigned_by TEXT   COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, scope, subject)
);
CREATE INDEX profile_assignments_by_profile
    ON profile_assignments (tenant_id, profile_id, scope, subject);

-- The limits that a subject has of its own, as a JSON array; no row where there are none.
CREATE TABLE own_limits (
    tenant_id  TEXT   COLLATE "C" NOT NULL,
    scope      TEXT   COLLATE "C" NOT NULL CHECK (scope IN ('tenant', 'team', 'user', 'session', 'api_key')),
    subject    TEXT   COLLATE "C" NOT NULL,
    limits     TEXT   NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, scope, subject)
);

-- Token budgets of sessions that were set; what is null has its default. The bases are what the session
-- had used when its count was last set back.
CREATE TABLE token_budgets (
    tenant_id               TEXT   COLLATE "C" NOT NULL,
    session_id              TEXT   COLLATE "C" NOT NULL,
    budget_max              BIGINT,
    enforced                BOOLEAN,
    summarize_below_percent BIGINT,
    base_prompt             BIGINT NOT NULL,
    base_completion         BIGINT NOT NULL,
    base_tools              BIGINT NOT NULL,
    updated_at              BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, session_id)
);

-- Calls that a limit refused, or would have refused: one row a limit, subject and second, with how many
-- there were. All but `count` is of the first of them.
CREATE TABLE limit_hits (
    number       BIGINT GENERATED ALWAYS AS IDENTITY,
    tenant_id    TEXT   COLLATE "C" NOT NULL,
    second       BIGINT NOT NULL,
    scope        TEXT   COLLATE "C" NOT NULL CHECK (scope IN ('tenant', 'team', 'user', 'session', 'api_key')),
    subject      TEXT   COLLATE "C" NOT NULL,
    limit_name   TEXT   COLLATE "C" NOT NULL,
    metric       TEXT   COLLATE "C" NOT NULL,
    limit_window TEXT   COLLATE "C" NOT NULL,
    enforcement  TEXT   COLLATE "C" NOT NULL CHECK (enforcement IN ('block', 'record_overage', 'shadow')),
    hard         BOOLEAN NOT NULL,
    profile_id   TEXT   COLLATE "C" NOT NULL,
    user_id      TEXT   COLLATE "C" NOT NULL,
    session_id   TEXT   COLLATE "C" NOT NULL,
    model        TEXT   COLLATE "C" NOT NULL,
    limit_amount BIGINT NOT NULL,
    used         BIGINT NOT NULL,
    held         BIGINT NOT NULL,
    asked        BIGINT NOT NULL,
    count        BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, number),
    UNIQUE (tenant_id, scope, subject, second, limit_name, metric, limit_window)
);
CREATE INDEX limit_hits_by_time ON limit_hits (tenant_id, second, number);
CREATE INDEX limit_hits_by_user ON limit_hits (tenant_id, user_id, second, number);

-- What events used beyond limits, and why that could be.
CREATE TABLE limit_overshoots (
    tenant_id    TEXT   COLLATE "C" NOT NULL,
    event_id     TEXT   COLLATE "C" NOT NULL,
    scope        TEXT   COLLATE "C" NOT NULL CHECK (scope IN ('tenant', 'team', 'user', 'session', 'api_key')),
    subject      TEXT   COLLATE "C" NOT NULL,
    limit_name   TEXT   COLLATE "C" NOT NULL,
    metric       TEXT   COLLATE "C" NOT NULL,
    limit_window TEXT   COLLATE "C" NOT NULL,
    amount       BIGINT NOT NULL,
    cause        TEXT   COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, event_id, scope, subject, limit_name, metric, limit_window)
);
