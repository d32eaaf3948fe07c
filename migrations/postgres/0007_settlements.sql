-- Settlements of reservations, and the API key with which an event was recorded.

-- Which event has settled a reservation: one, for ever. Written in the transaction of the event; its
-- void does not give the reservation free. Kept as long as event_keys, whose positions these are.
CREATE TABLE settlements (
    tenant_id      TEXT   COLLATE "C" NOT NULL,
    reservation_id TEXT   COLLATE "C" NOT NULL,
    event_id       TEXT   COLLATE "C" NOT NULL,
    position       BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, reservation_id)
);

-- Empty means other credentials. Corrections have that of the line which they correct.
ALTER TABLE usage_lines ADD COLUMN api_key_id TEXT COLLATE "C" NOT NULL DEFAULT '';

-- What a write takes from this version on. Nodes of the one before write new_line meanwhile, whose lines
-- have no API key, and settle nothing.
CREATE TYPE new_line_2 AS (
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
    succeeded BOOLEAN, labels TEXT, reservation_id TEXT, api_key_id TEXT
);
CREATE TYPE new_settlement AS (
    tenant_id TEXT, reservation_id TEXT, event_id TEXT, position BIGINT
);
