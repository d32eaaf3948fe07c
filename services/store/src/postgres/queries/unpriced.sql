-- Models with lines that still wait for a price, in order of provider and model. A correction of such
-- a line is its price or its void: then it waits no longer.
SELECT provider, model, count(*) AS lines,
       sum(input + cache_read + cache_write_5m + cache_write_30m + cache_write_1h
           + cache_write_12h + cache_write_unspecified + output)::BIGINT AS tokens,
       min(charge_time) AS first_us, max(charge_time) AS last_us
FROM usage_lines AS l
WHERE tenant_id = $1 AND unpriced_lines = 1 AND (provider, model) > ($2, $3)
  AND NOT EXISTS (
      SELECT 1 FROM usage_lines AS c
      WHERE c.tenant_id = $1 AND c.of_position = l.position AND c.charge_time = l.charge_time)
GROUP BY provider, model
ORDER BY provider, model
LIMIT $4
