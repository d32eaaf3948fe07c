-- Records a group: keys, settlements, lines, commits, totals, all or nothing, in one round trip.
-- $1 keys (sorted, none twice), $2 lines, $3 sums (in the order in which totals are locked), $4 commits;
-- $5 the earliest charge time; $6 settlements (sorted, none twice but for those that are refused). Any
-- of them may be empty, so that corrections use it for what they add. Answers the position that those
-- of the group are counted from.
--
-- Each step reads from the one before it, so that they run in this order: whoever has to wait for
-- another group's key or total has the fewest locks by then, and the totals that everybody adds to
-- are the last.
WITH state AS MATERIALIZED (
    -- Sealing waits for the groups that hold this lock, and those that wait for it see it sealed.
    SELECT base + (pg_current_xact_id()::text::bigint << 15) AS start, sealed_before
    FROM ledger_state WHERE id = 1
    FOR SHARE
), keys AS (
    INSERT INTO event_keys (tenant_id, event_id, fingerprint, position, charge_time)
    SELECT k.tenant_id, k.event_id, k.fingerprint, state.start + k.position, k.charge_time
    FROM state CROSS JOIN unnest($1::new_key[]) AS k
    ON CONFLICT DO NOTHING
    RETURNING 1
), taken AS MATERIALIZED (
    SELECT count(*) AS keys FROM keys
), settled AS (
    INSERT INTO settlements (tenant_id, reservation_id, event_id, position)
    SELECT s.tenant_id, s.reservation_id, s.event_id, state.start + s.position
    FROM taken CROSS JOIN state CROSS JOIN unnest($6::new_settlement[]) AS s
    ON CONFLICT DO NOTHING
    RETURNING 1
), granted AS MATERIALIZED (
    SELECT CASE
        WHEN $5 < sealed_before THEN tokenmeter_refuse('TM002')
        WHEN (SELECT keys FROM taken) < cardinality($1) THEN tokenmeter_refuse('TM001')
        WHEN (SELECT count(*) FROM settled) < cardinality($6) THEN tokenmeter_refuse('TM003')
        ELSE start
    END AS start
    FROM state
), lines AS (
    INSERT INTO usage_lines (
        position, tenant_id, event_id, line, line_count, kind, user_id, team_id, session_id, turn,
        provider, model, request_time, charge_time, recorded_at, requests, unpriced_lines, input,
        cache_read, cache_write_5m, cache_write_30m, cache_write_1h, cache_write_12h,
        cache_write_unspecified, output, reasoning, input_audio, input_image, tool_use_prompt,
        cache_read_audio, output_audio, output_image, tool_requests, cost_nano_usd,
        cache_saving_nano_usd, cache_write_extra_nano_usd, price_version, status, latency_ms,
        time_to_first_token_ms, service_tier, inference_region, stop_reason, thinking_enabled,
        thinking_budget_tokens, message, retrieval_ran, cases_retrieved, succeeded, labels,
        reservation_id, api_key_id)
    SELECT
        granted.start + l.position, l.tenant_id, l.event_id, l.line, l.line_count, l.kind,
        l.user_id, l.team_id, l.session_id, l.turn, l.provider, l.model, l.request_time,
        l.charge_time, l.recorded_at, l.requests, l.unpriced_lines, l.input, l.cache_read,
        l.cache_write_5m, l.cache_write_30m, l.cache_write_1h, l.cache_write_12h,
        l.cache_write_unspecified, l.output, l.reasoning, l.input_audio, l.input_image,
        l.tool_use_prompt, l.cache_read_audio, l.output_audio, l.output_image, l.tool_requests,
        l.cost_nano_usd, l.cache_saving_nano_usd, l.cache_write_extra_nano_usd, l.price_version,
        l.status, l.latency_ms, l.time_to_first_token_ms, l.service_tier, l.inference_region,
        l.stop_reason, l.thinking_enabled, l.thinking_budget_tokens, l.message, l.retrieval_ran,
        l.cases_retrieved, l.succeeded, l.labels, l.reservation_id,
        l.api_key_id
    FROM granted CROSS JOIN unnest($2::new_line_2[]) AS l
    RETURNING 1
), committed AS (
    INSERT INTO commits (
        tenant_id, first_position, last_position, first_charge_time, last_charge_time)
    SELECT c.tenant_id, granted.start + c.first_position, granted.start + c.last_position,
        c.first_charge_time, c.last_charge_time
    FROM granted CROSS JOIN unnest($4::new_commit[]) AS c
    RETURNING 1
), written AS MATERIALIZED (
    SELECT (SELECT count(*) FROM lines) + (SELECT count(*) FROM committed) AS rows
), totals AS (
    INSERT INTO usage_totals AS t (
        tenant_id, scope, subject, bucket, requests, succeeded, failed, interrupted, input,
        cache_read, cache_write_5m, cache_write_30m, cache_write_1h, cache_write_12h,
        cache_write_unspecified, output, reasoning, input_audio, input_image, tool_use_prompt,
        cache_read_audio, output_audio, output_image, tool_requests, cost_nano_usd,
        cache_saving_nano_usd, cache_write_extra_nano_usd, lines, unpriced_lines, latency_ms,
        latency_events, updated_at)
    SELECT
        s.tenant_id, s.scope, s.subject, s.bucket, s.requests, s.succeeded, s.failed, s.interrupted,
        s.input, s.cache_read, s.cache_write_5m, s.cache_write_30m, s.cache_write_1h,
        s.cache_write_12h, s.cache_write_unspecified, s.output, s.reasoning, s.input_audio,
        s.input_image, s.tool_use_prompt, s.cache_read_audio, s.output_audio, s.output_image,
        s.tool_requests, s.cost_nano_usd, s.cache_saving_nano_usd, s.cache_write_extra_nano_usd,
        s.lines, s.unpriced_lines, s.latency_ms, s.latency_events, s.updated_at
    FROM written CROSS JOIN unnest($3::new_sums[]) AS s
    ON CONFLICT (tenant_id, scope, subject, bucket) DO UPDATE SET
        requests = t.requests + excluded.requests,
        succeeded = t.succeeded + excluded.succeeded,
        failed = t.failed + excluded.failed,
        interrupted = t.interrupted + excluded.interrupted,
        input = t.input + excluded.input,
        cache_read = t.cache_read + excluded.cache_read,
        cache_write_5m = t.cache_write_5m + excluded.cache_write_5m,
        cache_write_30m = t.cache_write_30m + excluded.cache_write_30m,
        cache_write_1h = t.cache_write_1h + excluded.cache_write_1h,
        cache_write_12h = t.cache_write_12h + excluded.cache_write_12h,
        cache_write_unspecified = t.cache_write_unspecified + excluded.cache_write_unspecified,
        output = t.output + excluded.output,
        reasoning = t.reasoning + excluded.reasoning,
        input_audio = t.input_audio + excluded.input_audio,
        input_image = t.input_image + excluded.input_image,
        tool_use_prompt = t.tool_use_prompt + excluded.tool_use_prompt,
        cache_read_audio = t.cache_read_audio + excluded.cache_read_audio,
        output_audio = t.output_audio + excluded.output_audio,
        output_image = t.output_image + excluded.output_image,
        tool_requests = t.tool_requests + excluded.tool_requests,
        cost_nano_usd = t.cost_nano_usd + excluded.cost_nano_usd,
        cache_saving_nano_usd = t.cache_saving_nano_usd + excluded.cache_saving_nano_usd,
        cache_write_extra_nano_usd = t.cache_write_extra_nano_usd + excluded.cache_write_extra_nano_usd,
        lines = t.lines + excluded.lines,
        unpriced_lines = t.unpriced_lines + excluded.unpriced_lines,
        latency_ms = t.latency_ms + excluded.latency_ms,
        latency_events = t.latency_events + excluded.latency_events,
        updated_at = greatest(t.updated_at, excluded.updated_at)
    RETURNING 1
)
SELECT start, (SELECT count(*) FROM totals) AS totals FROM granted
