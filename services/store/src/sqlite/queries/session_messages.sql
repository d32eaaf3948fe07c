-- Messages of sessions that were recorded on their own.
SELECT session_id, count(*)
FROM messages INDEXED BY messages_by_session
WHERE tenant_id = ?1 AND session_id IN (SELECT value FROM json_each(?2))
  AND time >= ?4 AND time < ?5 AND {user}
GROUP BY session_id
