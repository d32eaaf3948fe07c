-- Messages of sessions that were recorded on their own.
SELECT session_id, count(*)
FROM messages
WHERE tenant_id = $1 AND session_id = ANY($2) AND number <= $3
  AND time >= $4 AND time < $5 AND {user}
GROUP BY session_id
