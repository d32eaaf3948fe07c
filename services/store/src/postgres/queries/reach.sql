-- How many users and sessions have an event in a range, voided ones left out; with $6, those with
-- sealed usage, too.
WITH seen (user_id, session_id) AS (
    SELECT user_id, nullif(session_id, '')
    FROM usage_lines AS l
    WHERE tenant_id = $1 AND charge_time >= $2 AND charge_time < $3
      AND ($4 = '' OR provider = $4) AND ($5 = '' OR model = $5)
      AND kind = 'usage'
      AND NOT EXISTS (
          SELECT 1 FROM usage_lines AS v
          WHERE v.tenant_id = $1 AND v.of_position = l.position AND v.kind = 'void'
            AND v.charge_time >= $2 AND v.charge_time < $3)
    UNION ALL
    SELECT CASE scope WHEN 'user' THEN subject END, CASE scope WHEN 'session' THEN subject END
    FROM sealed_totals
    WHERE $6 AND tenant_id = $1 AND scope IN ('user', 'session')
      AND ($4 = '' OR provider = $4) AND ($5 = '' OR model = $5)
      AND lines > 0
)
SELECT count(DISTINCT user_id), count(DISTINCT session_id)
FROM seen
