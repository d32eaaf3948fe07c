-- The changes that the rows of the positions (?5, ?6] are, oldest first: the lines of an event, of its
-- void, of a run that repriced it, each together.
SELECT kind, event_id, sum({tokens}), sum(cost_nano_usd), recorded_at
FROM usage_lines
WHERE tenant_id = ?1 AND user_id = ?2 AND charge_time >= ?3 AND charge_time < ?4
  AND position > ?5 AND position <= ?6
GROUP BY event_id, kind, coalesce(correction, ''), recorded_at
ORDER BY min(position)
LIMIT ?7
