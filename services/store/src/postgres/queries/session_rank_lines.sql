-- Sessions by a figure of a user or range as of a position, from the lines.
SELECT session_id
FROM usage_lines
WHERE tenant_id = $1 AND session_id <> '' AND position <= $2
  AND charge_time >= $5 AND charge_time < $6 AND {user}
GROUP BY session_id
HAVING sum(requests) > 0
ORDER BY sum({figure}) DESC, session_id
LIMIT $3 OFFSET $4
