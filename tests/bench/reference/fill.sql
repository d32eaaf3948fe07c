-- The events $1 + 1 to $2 of $3 in all, made in the database: spread evenly over the $5 microseconds
-- before $4, 20 tenants of which the first has 30 %, users by Zipf (the n-th is met in proportion to
-- 1/n), or all of the one user $6 of the first tenant. One line an event, recorded as it was charged.
INSERT INTO usage_lines (
    position, tenant_id, event_id, line, line_count, kind,
    user_id, team_id, session_id, turn, provider, model,
    request_time, charge_time, recorded_at, requests, unpriced_lines,
    input, cache_read, cache_write_5m, cache_write_30m, cache_write_1h, cache_write_12h,
    cache_write_unspecified, output, reasoning, input_audio, input_image, tool_use_prompt,
    cache_read_audio, output_audio, output_image,
    cost_nano_usd, cache_saving_nano_usd, cache_write_extra_nano_usd, price_version,
    status, latency_ms, time_to_first_token_ms, service_tier, inference_region, stop_reason,
    labels, reservation_id)
SELECT n, tenant, 'msg_' || lpad(to_hex(n), 24, '0'), 0, 1, 'usage',
    coalesce(nullif($6, ''), tenant || '-user-' || rank), '', tenant || '-sess-' || rank || '-' || n / 1000000, n % 24,
    'anthropic', (ARRAY['claude-opus-5', 'claude-sonnet-5', 'claude-haiku-4-5'])[1 + n % 3],
    time, time, time, 1, 0,
    50 + n % 8000, n % 30000, 0, 0, 0, 0, 0, 20 + n % 2000, 0, 0, 0, 0, 0, 0, 0,
    n % 1000000, 0, 0, 1,
    'succeeded', 100 + n % 5000, 50 + n % 800, 'standard', '', 'end_turn',
    '[["environment","production"],["feature","chat"]]', ''
FROM (
    SELECT n,
        'tenant-' || lpad((CASE WHEN $6 <> '' OR random() < 0.3 THEN 0 ELSE 1 + floor(random() * 19) END)::text,
                          2, '0') AS tenant,
        floor(exp(random() * ln(1000)))::bigint AS rank,
        $4 - ($5 * (($3 - n)::numeric / $3))::bigint - 1 AS time
    FROM generate_series($1 + 1, $2) AS n
) AS made
