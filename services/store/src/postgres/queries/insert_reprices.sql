-- Compensating entries of tenant $1: the facts of the lines at $2, charged at $3, no tokens, and the
-- differences $4 … $8, one entry a line, from the first position of the transaction on. Recorded at
-- $9; $10 is the run that posts them.
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
SELECT s.base + (pg_current_xact_id()::text::bigint << 15) + d.n,
    l.tenant_id, l.event_id, l.line, l.line_count, 'reprice', l.position, $10,
    l.user_id, l.team_id, l.session_id, l.turn, l.provider, l.model,
    l.request_time, l.charge_time, $9, 0, d.unpriced,
    0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0,
    0, 0, 0,
    d.cost, d.saving, d.extra, d.price_version,
    l.status, l.service_tier, l.inference_region, l.stop_reason, l.reservation_id,
    l.api_key_id
FROM ledger_state AS s
CROSS JOIN unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                  $7::bigint[], $8::bigint[]) WITH ORDINALITY
    AS d (position, charge_time, unpriced, cost, saving, extra, price_version, n)
JOIN usage_lines AS l
  ON l.tenant_id = $1 AND l.position = d.position AND l.charge_time = d.charge_time
WHERE s.id = 1
