-- A line's owner, and the quote that stands: its own with all reprices, the last one's version. No
-- row if its event was voided or is sealed.
SELECT l.tenant_id, l.user_id, l.team_id, l.session_id, l.provider, l.model, l.charge_time,
       l.cost_nano_usd + coalesce(sum(c.cost_nano_usd), 0) AS cost_nano_usd,
       l.cache_saving_nano_usd + coalesce(sum(c.cache_saving_nano_usd), 0)
           AS cache_saving_nano_usd,
       l.cache_write_extra_nano_usd + coalesce(sum(c.cache_write_extra_nano_usd), 0)
           AS cache_write_extra_nano_usd,
       coalesce((SELECT p.price_version FROM usage_lines AS p
                 WHERE p.of_position = l.position AND p.kind = 'reprice'
                 ORDER BY p.position DESC LIMIT 1),
                l.price_version) AS price_version
FROM usage_lines AS l
LEFT JOIN usage_lines AS c ON c.of_position = l.position AND c.kind = 'reprice'
WHERE l.tenant_id = ?1 AND l.position = ?2 AND l.kind = 'usage'
  AND l.charge_time >= (SELECT sealed_before FROM ledger_state)
  AND NOT EXISTS (
      SELECT 1 FROM usage_lines AS v WHERE v.of_position = l.position AND v.kind = 'void')
GROUP BY l.position
