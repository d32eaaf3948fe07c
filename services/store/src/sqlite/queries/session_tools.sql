-- Tools of sessions, most used first.
SELECT session_id, tool, count(*)
FROM tool_invocations INDEXED BY tool_invocations_by_session
WHERE tenant_id = ?1 AND session_id IN (SELECT value FROM json_each(?2)) AND session_id <> ''
  AND start_time >= ?4 AND start_time < ?5 AND {user}
GROUP BY session_id, tool
ORDER BY session_id, count(*) DESC, tool
