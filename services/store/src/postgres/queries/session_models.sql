-- Sums of sessions by model; if {whole}, of what is sealed, too.
WITH parts AS (
    SELECT session_id, provider, model, {line_sums}, max(recorded_at) AS updated_at
    FROM usage_lines
    WHERE tenant_id = $1 AND session_id = ANY($2) AND session_id <> ''
      AND position <= $3 AND charge_time >= $4 AND charge_time < $5 AND {user}
    GROUP BY session_id, provider, model
    UNION ALL
    SELECT subject, provider, model, {columns}, updated_at
    FROM sealed_totals
    WHERE {whole} AND tenant_id = $1 AND scope = 'session' AND subject = ANY($2)
)
SELECT session_id, provider, model, {sums}, max(updated_at)
FROM parts
GROUP BY session_id, provider, model
ORDER BY session_id, provider, model
