-- Facts of sessions beside their sums, voided events left out: the user of the first event, turns,
-- messages of events, first and last time. If {whole}, of what is sealed, too: a turn with events on
-- both sides counts twice.
WITH live AS (
    SELECT session_id, user_id, turn, charge_time, message,
           row_number() OVER (PARTITION BY session_id ORDER BY charge_time, position) AS n
    FROM usage_lines AS l
    WHERE tenant_id = $1 AND session_id = ANY($2) AND session_id <> ''
      AND position <= $3 AND charge_time >= $4 AND charge_time < $5 AND {user}
      AND kind = 'usage' AND line = 0
      AND NOT EXISTS (
          SELECT 1 FROM usage_lines AS v
          WHERE v.tenant_id = $1 AND v.session_id = ANY($2) AND v.session_id <> ''
            AND v.of_position = l.position AND v.kind = 'void' AND v.position <= $3)
), facts AS (
    SELECT session_id, false AS sealed, max(user_id) FILTER (WHERE n = 1) AS user_id,
           count(DISTINCT turn) AS turns, count(message) AS messages,
           min(charge_time) AS first_time, max(charge_time) AS last_time
    FROM live
    GROUP BY session_id
    UNION ALL
    SELECT session_id, true, user_id, turns, messages, first_time, last_time
    FROM sealed_sessions
    WHERE {whole} AND tenant_id = $1 AND session_id = ANY($2)
)
SELECT session_id, coalesce(max(user_id) FILTER (WHERE sealed), max(user_id)),
       sum(turns)::BIGINT, sum(messages)::BIGINT, min(first_time), max(last_time)
FROM facts
GROUP BY session_id
