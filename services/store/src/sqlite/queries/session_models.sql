-- Sums of sessions by model; if {whole}, of what is sealed, too.
WITH parts (session_id, provider, model, {columns}, updated_at) AS (
    SELECT session_id, provider, model, {of_line}, recorded_at
    FROM usage_lines INDEXED BY usage_lines_by_session
    WHERE tenant_id = ?1 AND session_id IN (SELECT value FROM json_each(?2)) AND session_id <> ''
      AND +position <= ?3 AND charge_time >= ?4 AND charge_time < ?5 AND {user}
    UNION ALL
    SELECT subject, provider, model, {columns}, updated_at
    FROM sealed_totals
    WHERE {whole} AND tenant_id = ?1 AND scope = 'session'
      AND subject IN (SELECT value FROM json_each(?2))
)
SELECT session_id, provider, model, {sums}, max(updated_at)
FROM parts
GROUP BY session_id, provider, model
