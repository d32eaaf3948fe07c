-- The same for the number of sessions: those that these rows gave a first event, less those that they
-- took the last one from.
WITH touched AS (
    SELECT session_id, sum(requests) AS change
    FROM usage_lines
    WHERE tenant_id = ?1 AND user_id = ?2 AND charge_time >= ?3 AND charge_time < ?4
      AND position > ?5 AND position <= ?6 AND session_id <> ''
    GROUP BY session_id
), sessions AS (
    SELECT change,
           CASE WHEN ?5 > 0 THEN coalesce(
               (SELECT sum(l.requests) FROM usage_lines AS l
                WHERE l.tenant_id = ?1 AND l.session_id = touched.session_id
                  AND l.session_id <> '' AND l.user_id = ?2
                  AND l.charge_time >= ?3 AND l.charge_time < ?4 AND l.position <= ?5), 0)
           ELSE 0 END AS before
    FROM touched
)
SELECT count(*) FILTER (WHERE before + change > 0) - count(*) FILTER (WHERE before > 0)
FROM sessions
