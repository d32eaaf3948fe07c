-- The rows of one event as it was first recorded: they stand one after the other. The + keeps the
-- planner from an index on the tenant, which would read all of its lines.
SELECT * FROM usage_lines
WHERE +tenant_id = ?1 AND event_id = ?2 AND kind = 'usage'
  AND position BETWEEN ?3 AND ?3 + 15
ORDER BY line
