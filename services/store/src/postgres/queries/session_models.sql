-- Sums of sessions by model.
SELECT session_id, provider, model, {line_sums}, max(recorded_at)
FROM usage_lines
WHERE tenant_id = $1 AND session_id = ANY($2) AND session_id <> ''
  AND position <= $3 AND charge_time >= $4 AND charge_time < $5 AND {user}
GROUP BY session_id, provider, model
ORDER BY session_id, provider, model
