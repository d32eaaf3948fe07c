-- A stretch of the log: what one tenant wrote, in commit order. The charge times leave out the
-- partitions that have nothing of it.
SELECT * FROM usage_lines
WHERE tenant_id = $1 AND position > $2 AND position <= $3 AND charge_time BETWEEN $4 AND $5
ORDER BY position
LIMIT $6
