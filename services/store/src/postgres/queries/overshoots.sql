-- Overshoots of events, whose ids are a JSON array.
SELECT * FROM limit_overshoots
WHERE tenant_id = $1 AND event_id = ANY (ARRAY(SELECT json_array_elements_text($2::JSON)))
ORDER BY event_id, scope, subject, limit_name, metric, limit_window
