-- A compensating entry: the facts of the line at ?2, no tokens, and the difference in cost.
-- ?9 is the run that posts it.
INSERT INTO usage_lines (
    position, tenant_id, event_id, line, line_count, kind, of_position, correction,
    user_id, team_id, session_id, turn, provider, model,
    request_time, charge_time, recorded_at, requests, unpriced_lines,
    input, cache_read, cache_write_5m, cache_write_30m, cache_write_1h, cache_write_12h,
    cache_write_unspecified, output, reasoning, input_audio, input_image, tool_use_prompt,
    cache_read_audio, output_audio, output_image,
    cost_nano_usd, cache_saving_nano_usd, cache_write_extra_nano_usd, price_version,
    status, service_tier, inference_region, stop_reason, reservation_id,
    api_key_id)
SELECT ?1, tenant_id, event_id, line, line_count, 'reprice', position, ?9,
    user_id, team_id, session_id, turn, provider, model,
    request_time, charge_time, ?3, 0, ?4,
    0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0,
    0, 0, 0,
    ?5, ?6, ?7, ?8,
    status, service_tier, inference_region, stop_reason, reservation_id,
    api_key_id
FROM usage_lines WHERE position = ?2
