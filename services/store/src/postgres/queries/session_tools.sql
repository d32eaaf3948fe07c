-- Tools of sessions, most used first.
SELECT session_id, tool, count(*)
FROM tool_invocations
WHERE tenant_id = $1 AND session_id = ANY($2) AND session_id <> '' AND number <= $3
  AND start_time >= $4 AND start_time < $5 AND {user}
GROUP BY session_id, tool
ORDER BY session_id, count(*) DESC, tool
