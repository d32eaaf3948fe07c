-- Facts of sessions beside their sums, voided events left out: the user of the first event, turns,
-- messages of events, first and last time. If {whole}, of what is sealed, too: a turn with events on
-- both sides counts twice.
WITH live AS (
    SELECT session_id, user_id, turn, charge_time, message,
           row_number() OVER (PARTITION BY session_id ORDER BY charge_time, position) AS n
    FROM usage_lines AS l INDEXED BY usage_lines_by_session
    WHERE tenant_id = ?1 AND session_id IN (SELECT value FROM json_each(?2)) AND session_id <> ''
      AND +position <= ?3 AND charge_time >= ?4 AND charge_time < ?5 AND {user}
      AND kind = 'usage' AND line = 0
      AND NOT EXISTS (
          SELECT 1 FROM usage_lines AS v
          WHERE v.of_position = l.position AND v.kind = 'void' AND +v.position <= ?3)
), facts (session_id, sealed, user_id, turns, messages, first_time, last_time) AS (
    SELECT session_id, 0, max(user_id) FILTER (WHERE n = 1), count(DISTINCT turn), count(message),
           min(charge_time), max(charge_time)
    FROM live
    GROUP BY session_id
    UNION ALL
    SELECT session_id, 1, user_id, turns, messages, first_time, last_time
    FROM sealed_sessions
    WHERE {whole} AND tenant_id = ?1 AND session_id IN (SELECT value FROM json_each(?2))
)
SELECT session_id,
       coalesce(max(user_id) FILTER (WHERE sealed), max(user_id)),
       sum(turns), sum(messages), min(first_time), max(last_time)
FROM facts
GROUP BY session_id
