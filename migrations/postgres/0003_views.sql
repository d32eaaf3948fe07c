-- Views for people with SQL. Money is in nano-USD, times are microseconds since the Unix epoch, all
-- integers. Voided events are in none of them; reprices are in all.
-- A sum of BIGINT is NUMERIC here, so that each is cast back.

-- What each user has used, over its lifetime: what GetUserUsage answers for LIFETIME.
CREATE VIEW user_token_totals AS
SELECT tenant_id, subject AS user_id,
       input + cache_read + cache_write_5m + cache_write_30m + cache_write_1h + cache_write_12h
           + cache_write_unspecified AS prompt_tokens,
       output AS completion_tokens,
       input + cache_read + cache_write_5m + cache_write_30m + cache_write_1h + cache_write_12h
           + cache_write_unspecified + output AS total_tokens,
       cache_read AS cache_read_tokens,
       cache_write_5m + cache_write_30m + cache_write_1h + cache_write_12h
           + cache_write_unspecified AS cache_write_tokens,
       input + output AS uncached_total_tokens,
       reasoning AS reasoning_tokens,
       requests, succeeded, failed, interrupted,
       cost_nano_usd, cache_saving_nano_usd, cache_write_extra_nano_usd, unpriced_lines,
       updated_at AS last_updated
FROM usage_totals
WHERE scope = 'user' AND bucket = 0 AND requests > 0;

-- What each session has used: the totals that GetSessionUsage answers.
CREATE VIEW session_token_totals AS
SELECT tenant_id, subject AS session_id,
       input + cache_read + cache_write_5m + cache_write_30m + cache_write_1h + cache_write_12h
           + cache_write_unspecified AS prompt_tokens,
       output AS completion_tokens,
       input + cache_read + cache_write_5m + cache_write_30m + cache_write_1h + cache_write_12h
           + cache_write_unspecified + output AS total_tokens,
       cache_read AS cache_read_tokens,
       cache_write_5m + cache_write_30m + cache_write_1h + cache_write_12h
           + cache_write_unspecified AS cache_write_tokens,
       input + output AS uncached_total_tokens,
       reasoning AS reasoning_tokens,
       requests, succeeded, failed, interrupted,
       cost_nano_usd, cache_saving_nano_usd, cache_write_extra_nano_usd, unpriced_lines,
       updated_at AS last_updated
FROM usage_totals
WHERE scope = 'session' AND bucket = 0 AND requests > 0;

-- Each session in short: what ListSessionSummaries answers.
CREATE VIEW chat_sessions_summary AS
WITH events AS (
    SELECT tenant_id, session_id, user_id, turn, charge_time, message,
           row_number() OVER (
               PARTITION BY tenant_id, session_id ORDER BY charge_time, position) AS place
    FROM usage_lines AS l
    WHERE kind = 'usage' AND line = 0 AND session_id <> ''
      AND NOT EXISTS (
          SELECT 1 FROM usage_lines AS v WHERE v.tenant_id = l.tenant_id AND v.of_position = l.position
            AND v.charge_time = l.charge_time AND v.kind = 'void')
), facts AS (
    SELECT tenant_id, session_id, max(user_id) FILTER (WHERE place = 1) AS user_id,
           count(DISTINCT turn) AS turns, count(message) AS messages,
           min(charge_time) AS first_event_time, max(charge_time) AS last_event_time
    FROM events
    GROUP BY tenant_id, session_id
)
SELECT f.tenant_id, f.session_id, f.user_id, t.requests, f.turns,
       (SELECT count(*) FROM tool_invocations AS i
        WHERE i.tenant_id = f.tenant_id AND i.session_id = f.session_id
          AND i.session_id <> '') AS tool_invocations,
       f.messages + (SELECT count(*) FROM messages AS m
        WHERE m.tenant_id = f.tenant_id AND m.session_id = f.session_id) AS messages,
       t.prompt_tokens, t.completion_tokens, t.total_tokens, t.cost_nano_usd, t.unpriced_lines,
       f.first_event_time, f.last_event_time,
       (f.last_event_time - f.first_event_time) / 1000 AS duration_ms
FROM facts AS f
JOIN session_token_totals AS t ON t.tenant_id = f.tenant_id AND t.session_id = f.session_id;

-- Each tool in short: the counts that ListToolUsage answers. The rate is a millionth of what ended
-- well or with an error, cut off; null if nothing did.
CREATE VIEW tool_usage_summary AS
SELECT tenant_id, tool,
       count(*) AS calls,
       count(*) FILTER (WHERE status = 'succeeded') AS succeeded,
       count(*) FILTER (WHERE status = 'failed') AS failed,
       count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
       count(*) FILTER (WHERE status = 'succeeded') * 1000000
           / nullif(count(*) FILTER (WHERE status IN ('succeeded', 'failed')), 0)
           AS success_rate_ppm,
       count(duration_ms) AS measured,
       sum(duration_ms)::BIGINT AS duration_ms,
       max(duration_ms) AS max_duration_ms,
       sum(estimated_tokens)::BIGINT AS estimated_tokens,
       max(start_time) AS last_start_time
FROM tool_invocations
GROUP BY tenant_id, tool;

-- What to bill: each user's use by month (of UTC) and model, as ListMonthlyUsage answers for a
-- tenant in UTC.
CREATE VIEW billing_summary AS
SELECT tenant_id, user_id,
       to_char(to_timestamp(charge_time / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM') AS month,
       provider, model,
       sum(requests)::BIGINT AS requests,
       sum(input + cache_read + cache_write_5m + cache_write_30m + cache_write_1h
           + cache_write_12h + cache_write_unspecified)::BIGINT AS prompt_tokens,
       sum(output)::BIGINT AS completion_tokens,
       sum(input + cache_read + cache_write_5m + cache_write_30m + cache_write_1h
           + cache_write_12h + cache_write_unspecified + output)::BIGINT AS total_tokens,
       sum(cache_read)::BIGINT AS cache_read_tokens,
       sum(cache_write_5m + cache_write_30m + cache_write_1h + cache_write_12h
           + cache_write_unspecified)::BIGINT AS cache_write_tokens,
       sum(cost_nano_usd)::BIGINT AS cost_nano_usd,
       sum(cache_saving_nano_usd)::BIGINT AS cache_saving_nano_usd,
       sum(cache_write_extra_nano_usd)::BIGINT AS cache_write_extra_nano_usd,
       sum(unpriced_lines)::BIGINT AS unpriced_lines
FROM usage_lines
GROUP BY tenant_id, user_id, month, provider, model
HAVING sum(CASE kind WHEN 'usage' THEN 1 WHEN 'void' THEN -1 ELSE 0 END) > 0;
