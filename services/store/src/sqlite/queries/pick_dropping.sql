-- Positions of rows to drop next, of tenant ?1 and charged in [?2, ?3): of the ?4 oldest rows all of
-- their sessions' in these times, so that facts of a session are taken from all of it, and all rows
-- of the events that have no session.
INSERT INTO temp.dropping (position)
WITH picked AS MATERIALIZED (
    SELECT coalesce(of_position, position) - line AS first, line_count, session_id
    FROM usage_lines INDEXED BY usage_lines_by_tenant
    WHERE tenant_id = ?1 AND charge_time >= ?2 AND charge_time < ?3
    ORDER BY charge_time
    LIMIT ?4
), alone AS MATERIALIZED (
    SELECT DISTINCT first, first + line_count - 1 AS last FROM picked WHERE session_id = ''
)
SELECT position
FROM usage_lines INDEXED BY usage_lines_by_session
WHERE tenant_id = ?1 AND session_id IN (SELECT session_id FROM picked) AND session_id <> ''
  AND charge_time >= ?2 AND charge_time < ?3
UNION
SELECT l.position FROM alone JOIN usage_lines AS l ON l.position BETWEEN alone.first AND alone.last
UNION
SELECT l.position
FROM alone JOIN usage_lines AS l ON l.of_position BETWEEN alone.first AND alone.last
