-- Lines that still wait for a price, after a position.
SELECT * FROM usage_lines AS l
WHERE tenant_id = ?1 AND unpriced_lines = 1 AND position > ?2
  AND NOT EXISTS (
      SELECT 1 FROM usage_lines AS c WHERE c.of_position = l.position AND c.kind = 'reprice')
ORDER BY position
LIMIT ?3
