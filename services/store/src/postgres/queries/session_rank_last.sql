-- Sessions by the charge time of their last event as of a position, voided events left out. Events
-- before $5 are not read: a session's last one is after it, or the session is not wanted.
SELECT session_id
FROM usage_lines AS l
WHERE tenant_id = $1 AND session_id <> '' AND position <= $2 AND {user}
  AND charge_time >= $5 AND kind = 'usage' AND line = 0
  AND NOT EXISTS (
      SELECT 1 FROM usage_lines AS v
      WHERE v.tenant_id = $1 AND v.of_position = l.position AND v.kind = 'void'
        AND v.position <= $2)
GROUP BY session_id
HAVING max(charge_time) < $6
ORDER BY max(charge_time) DESC, session_id
LIMIT $3 OFFSET $4
