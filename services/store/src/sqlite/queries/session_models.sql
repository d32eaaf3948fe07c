-- Sums of sessions by model.
SELECT session_id, provider, model, {sums}, max(recorded_at)
FROM usage_lines INDEXED BY usage_lines_by_session
WHERE tenant_id = ?1 AND session_id IN (SELECT value FROM json_each(?2)) AND session_id <> ''
  AND +position <= ?3 AND charge_time >= ?4 AND charge_time < ?5 AND {user}
GROUP BY session_id, provider, model
