-- The owners of the lines at the positions $2 of tenant $1 and the quotes that stand: their own with
-- all reprices, the last one's version. No row for a line whose event was voided, or is sealed. Where
-- to look for a line's month says the commit that wrote it.
SELECT l.tenant_id, l.event_id, l.user_id, l.team_id, l.session_id, l.provider, l.model, l.charge_time,
       l.position,
       l.cost_nano_usd + coalesce(c.cost, 0) AS cost_nano_usd,
       l.cache_saving_nano_usd + coalesce(c.saving, 0) AS cache_saving_nano_usd,
       l.cache_write_extra_nano_usd + coalesce(c.extra, 0) AS cache_write_extra_nano_usd,
       coalesce(c.price_version, l.price_version) AS price_version
FROM ledger_state AS s
CROSS JOIN unnest($2::bigint[]) AS wanted (position)
CROSS JOIN LATERAL (
    SELECT first_charge_time, last_charge_time FROM commits
    WHERE tenant_id = $1 AND last_position >= wanted.position
    ORDER BY last_position
    LIMIT 1
) AS w
JOIN usage_lines AS l
  ON l.tenant_id = $1 AND l.position = wanted.position AND l.kind = 'usage'
 AND l.charge_time BETWEEN w.first_charge_time AND w.last_charge_time
CROSS JOIN LATERAL (
    SELECT sum(cost_nano_usd)::BIGINT AS cost, sum(cache_saving_nano_usd)::BIGINT AS saving,
           sum(cache_write_extra_nano_usd)::BIGINT AS extra,
           (array_agg(price_version ORDER BY position DESC))[1] AS price_version,
           coalesce(bool_or(kind = 'void'), FALSE) AS voided
    FROM usage_lines
    WHERE tenant_id = $1 AND of_position = l.position AND charge_time = l.charge_time
) AS c
WHERE s.id = 1 AND l.charge_time >= s.sealed_before AND NOT c.voided
