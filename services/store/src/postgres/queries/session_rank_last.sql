-- Sessions by the charge time of their last event as of a position, voided events left out.
SELECT session_id
FROM usage_lines AS l
WHERE tenant_id = $1 AND session_id <> '' AND position <= $2 AND {user}
  AND kind = 'usage' AND line = 0
  AND NOT EXISTS (
      SELECT 1 FROM usage_lines AS v
      WHERE v.tenant_id = $1 AND v.of_position = l.position AND v.kind = 'void'
        AND v.position <= $2)
GROUP BY session_id
HAVING max(charge_time) >= $5 AND max(charge_time) < $6
ORDER BY max(charge_time) DESC, session_id
LIMIT $3 OFFSET $4
