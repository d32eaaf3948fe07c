-- The sums of the new prices of lines at given places ($2: position, $3: charge time), with the last
-- one's version.
SELECT place.position AS of_position, c.*
FROM unnest($2::BIGINT[], $3::BIGINT[]) AS place (position, charge_time)
CROSS JOIN LATERAL (
    SELECT sum(cost_nano_usd)::BIGINT AS cost_nano_usd,
           sum(cache_saving_nano_usd)::BIGINT AS cache_saving_nano_usd,
           sum(cache_write_extra_nano_usd)::BIGINT AS cache_write_extra_nano_usd,
           (array_agg(price_version ORDER BY position DESC))[1] AS price_version
    FROM usage_lines
    WHERE tenant_id = $1 AND of_position = place.position AND charge_time = place.charge_time
      AND kind = 'reprice'
) AS c
