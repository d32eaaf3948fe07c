-- Overshoots of events, whose ids are a JSON array.
SELECT * FROM limit_overshoots
WHERE tenant_id = ?1 AND event_id IN (SELECT value FROM json_each(?2))
ORDER BY event_id, scope, subject, limit_name, metric, limit_window
