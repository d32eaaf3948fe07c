-- How the token budget of a session stands, in one snapshot: what was set of it, what the session and
-- its tools used, whose it is and the model of its last event. Voided events are left out.
WITH standing AS NOT MATERIALIZED (
    SELECT l.user_id, l.model, l.charge_time, l.position
    FROM usage_lines AS l
    WHERE l.tenant_id = $1 AND l.session_id = $2 AND l.session_id <> ''
      AND l.kind = 'usage' AND l.line = 0
      AND NOT EXISTS (
          SELECT 1 FROM usage_lines AS v
          WHERE v.of_position = l.position AND v.tenant_id = $1 AND v.charge_time = l.charge_time
            AND v.kind = 'void')
)
SELECT b.budget_max, b.enforced, b.summarize_below_percent,
       b.base_prompt, b.base_completion, b.base_tools, b.updated_at AS set_at,
       coalesce(
           (SELECT user_id FROM sealed_sessions WHERE tenant_id = $1 AND session_id = $2),
           (SELECT user_id FROM standing ORDER BY charge_time, position LIMIT 1),
           '') AS user_id,
       coalesce(
           (SELECT model FROM standing ORDER BY charge_time DESC, position DESC LIMIT 1),
           '') AS model,
       t.input + t.cache_read + t.cache_write_5m + t.cache_write_30m + t.cache_write_1h
           + t.cache_write_12h + t.cache_write_unspecified AS prompt,
       t.output AS completion, t.updated_at AS used_at,
       i.tools, i.tools_at
FROM (SELECT CAST(sum(estimated_tokens) AS BIGINT) AS tools, max(recorded_at) AS tools_at
      FROM tool_invocations
      WHERE tenant_id = $1 AND session_id = $2 AND session_id <> '') AS i
LEFT JOIN usage_totals AS t
    ON t.tenant_id = $1 AND t.scope = 'session' AND t.subject = $2 AND t.bucket = 0
LEFT JOIN token_budgets AS b ON b.tenant_id = $1 AND b.session_id = $2
