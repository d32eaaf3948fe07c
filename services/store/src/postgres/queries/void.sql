-- The compensating entries of the event of tenant $1 whose first line stands at $2, charged at $3: one
-- a line, from the first position of the transaction on. Each takes out its line with all that
-- reprices added to it. Recorded at $4, for the reason $5.
WITH state AS (
    SELECT base + (pg_current_xact_id()::text::bigint << 15) AS start
    FROM ledger_state WHERE id = 1
), repriced AS (
    SELECT of_position AS line_position,
           sum(cost_nano_usd)::BIGINT AS cost,
           sum(cache_saving_nano_usd)::BIGINT AS saving,
           sum(cache_write_extra_nano_usd)::BIGINT AS extra,
           sum(unpriced_lines)::BIGINT AS unpriced
    FROM usage_lines
    WHERE tenant_id = $1 AND of_position BETWEEN $2 AND $2 + 15 AND charge_time = $3
      AND kind = 'reprice'
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
SELECT state.start + 1 + l.line, l.tenant_id, l.event_id, l.line, l.line_count, 'void', l.position, $5,
    l.user_id, l.team_id, l.session_id, l.turn, l.provider, l.model,
    l.request_time, l.charge_time, $4,
    -l.requests, -(l.unpriced_lines + coalesce(r.unpriced, 0)),
    -l.input, -l.cache_read, -l.cache_write_5m, -l.cache_write_30m, -l.cache_write_1h,
    -l.cache_write_12h,
    -l.cache_write_unspecified, -l.output, -l.reasoning, -l.input_audio, -l.input_image,
    -l.tool_use_prompt,
    -l.cache_read_audio, -l.output_audio, -l.output_image,
    CASE WHEN l.tool_requests IS NOT NULL THEN
        (SELECT json_object_agg(key, -value::bigint)::text
         FROM json_each_text(l.tool_requests::json)) END,
    -(l.cost_nano_usd + coalesce(r.cost, 0)),
    -(l.cache_saving_nano_usd + coalesce(r.saving, 0)),
    -(l.cache_write_extra_nano_usd + coalesce(r.extra, 0)),
    l.price_version,
    l.status, l.latency_ms, l.time_to_first_token_ms, l.service_tier, l.inference_region,
    l.stop_reason,
    l.thinking_enabled, l.thinking_budget_tokens, l.message, l.retrieval_ran, l.cases_retrieved,
    l.succeeded,
    l.labels, l.reservation_id, l.api_key_id
FROM state CROSS JOIN usage_lines AS l
LEFT JOIN repriced AS r ON r.line_position = l.position
WHERE l.tenant_id = $1 AND l.position BETWEEN $2 AND $2 + 15 AND l.charge_time = $3
  AND l.kind = 'usage' AND l.position - l.line = $2
