-- What the filled events add to the totals of users, their lifetimes and quarter-hours.
INSERT INTO usage_totals (
    tenant_id, scope, subject, bucket, requests, succeeded, failed, interrupted,
    input, cache_read, cache_write_5m, cache_write_30m, cache_write_1h, cache_write_12h,
    cache_write_unspecified, output, reasoning, input_audio, input_image, tool_use_prompt,
    cache_read_audio, output_audio, output_image, tool_requests,
    cost_nano_usd, cache_saving_nano_usd, cache_write_extra_nano_usd,
    lines, unpriced_lines, latency_ms, latency_events, updated_at)
SELECT tenant_id, 'user', user_id, coalesce(charge_time / 900000000, 0),
    count(*), count(*), 0, 0, sum(input), sum(cache_read), 0, 0, 0, 0, 0, sum(output), 0, 0, 0, 0,
    0, 0, 0, 0, sum(cost_nano_usd), 0, 0, count(*), 0, sum(latency_ms), count(*), max(recorded_at)
FROM usage_lines
WHERE session_id <> ''
GROUP BY GROUPING SETS ((tenant_id, user_id), (tenant_id, user_id, charge_time / 900000000))
ORDER BY max(charge_time)
ON CONFLICT DO NOTHING
