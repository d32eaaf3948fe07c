-- Lines to price anew of events that begin after $2 and not after $3, in order of position.
SELECT position, line, provider, service_tier, charge_time, model,
       input, cache_read, cache_write_5m, cache_write_30m, cache_write_1h, cache_write_12h,
       cache_write_unspecified, output, reasoning, input_audio, input_image, tool_use_prompt,
       cache_read_audio, output_audio, output_image, tool_requests,
       cost_nano_usd, cache_saving_nano_usd, cache_write_extra_nano_usd, price_version
FROM usage_lines AS l
WHERE tenant_id = $1 AND position > $2 AND position <= $3 + 15
  AND position - line > $2 AND position - line <= $3
  AND kind = 'usage'
  AND ($4 = '' OR provider = $4) AND ($5 = '' OR model = $5)
  AND charge_time >= $6 AND charge_time < $7
  AND ($8 OR unpriced_lines = 1 AND NOT EXISTS (
      SELECT 1 FROM usage_lines AS c
      WHERE c.tenant_id = $1 AND c.of_position = l.position AND c.charge_time = l.charge_time))
  AND NOT EXISTS (
      SELECT 1 FROM usage_lines AS v
      WHERE v.tenant_id = $1 AND v.of_position = l.position AND v.charge_time = l.charge_time
        AND v.kind = 'void')
ORDER BY position
