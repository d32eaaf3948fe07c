-- Lines to price anew of events that begin after ?2 and not after ?3. Read in order of position: an
-- index would have to be read from its start for every such stretch.
SELECT position, line, provider, service_tier, charge_time, model,
       input, cache_read, cache_write_5m, cache_write_30m, cache_write_1h, cache_write_12h,
       cache_write_unspecified, output, reasoning, input_audio, input_image, tool_use_prompt,
       cache_read_audio, output_audio, output_image, tool_requests,
       cost_nano_usd, cache_saving_nano_usd, cache_write_extra_nano_usd, price_version
FROM usage_lines AS l NOT INDEXED
WHERE position > ?2 AND position <= ?3 + 15
  AND position - line > ?2 AND position - line <= ?3
  AND tenant_id = ?1 AND kind = 'usage'
  AND (?4 = '' OR provider = ?4) AND (?5 = '' OR model = ?5)
  AND charge_time >= ?6 AND charge_time < ?7
  AND (?8 OR unpriced_lines = 1 AND NOT EXISTS (
      SELECT 1 FROM usage_lines AS c WHERE c.of_position = l.position))
  AND NOT EXISTS (
      SELECT 1 FROM usage_lines AS v WHERE v.of_position = l.position AND v.kind = 'void')
ORDER BY position
