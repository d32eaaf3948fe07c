-- A stretch of the log: what one tenant wrote, in commit order. The range of positions is what bounds
-- the scan; the plus keeps SQLite from walking all of the tenant's lines by their index instead.
SELECT * FROM usage_lines
WHERE position > ?2 AND position <= ?3 AND +tenant_id = ?1
ORDER BY position
LIMIT ?4
