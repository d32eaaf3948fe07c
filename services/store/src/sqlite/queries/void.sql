-- The compensating entries of the event whose first line stands at ?2, one a line from position ?1
-- on: each takes out its line with all that reprices added to it. Recorded at ?3, for the reason ?4.
WITH repriced AS (
    SELECT of_position AS line_position,
           sum(cost_nano_usd) AS cost,
           sum(cache_saving_nano_usd) AS saving,
           sum(cache_write_extra_nano_usd) AS extra,
           sum(unpriced_lines) AS unpriced
    FROM usage_lines
    WHERE of_position BETWEEN ?2 AND ?2 + 15 AND kind = 'reprice'
    GROUP BY of_position
)
INSERT INTO usage_lines (
    position, tenant_id, event_id, line, line_count, kind, of_position, correction,
    user_id, team_id, session_id, turn, provider, model,
    request_time, charge_time, recorded_at,
    requests, unpriced_lines,
    input, cache_read, cache_write_5m, cache_write_30m, cache_write_1h, cache_write_12h,
    cache_write_unspecified, output, reasoning, input_audio, input_image, tool_use_prompt,
    cache_read_audio, output_audio, output_image,
    tool_requests,
    cost_nano_usd, cache_saving_nano_usd, cache_write_extra_nano_usd, price_version,
    status, latency_ms, time_to_first_token_ms, service_tier, inference_region, stop_reason,
    thinking_enabled, thinking_budget_tokens, message, retrieval_ran, cases_retrieved, succeeded,
    labels, reservation_id, api_key_id)
SELECT ?1 + l.line, l.tenant_id, l.event_id, l.line, l.line_count, 'void', l.position, ?4,
    l.user_id, l.team_id, l.session_id, l.turn, l.provider, l.model,
    l.request_time, l.charge_time, ?3,
    -l.requests, -(l.unpriced_lines + coalesce(r.unpriced, 0)),
    -l.input, -l.cache_read, -l.cache_write_5m, -l.cache_write_30m, -l.cache_write_1h,
    -l.cache_write_12h,
    -l.cache_write_unspecified, -l.output, -l.reasoning, -l.input_audio, -l.input_image,
    -l.tool_use_prompt,
    -l.cache_read_audio, -l.output_audio, -l.output_image,
    CASE WHEN l.tool_requests IS NOT NULL THEN
        (SELECT json_group_object(key, -value) FROM json_each(l.tool_requests)) END,
    -(l.cost_nano_usd + coalesce(r.cost, 0)),
    -(l.cache_saving_nano_usd + coalesce(r.saving, 0)),
    -(l.cache_write_extra_nano_usd + coalesce(r.extra, 0)),
    l.price_version,
    l.status, l.latency_ms, l.time_to_first_token_ms, l.service_tier, l.inference_region,
    l.stop_reason,
    l.thinking_enabled, l.thinking_budget_tokens, l.message, l.retrieval_ran, l.cases_retrieved,
    l.succeeded,
    l.labels, l.reservation_id, l.api_key_id
FROM usage_lines AS l
LEFT JOIN repriced AS r ON r.line_position = l.position
WHERE l.position BETWEEN ?2 AND ?2 + 15 AND l.kind = 'usage'
  AND l.position - l.line = ?2
