-- What is known of the sessions whose rows are about to be dropped, of tenant ?1, beside their sums:
-- voided events are left out.
INSERT INTO sealed_sessions (
    tenant_id, session_id, user_id, users, turns, messages, first_time, last_time)
WITH live AS (
    SELECT session_id, user_id, turn, charge_time, message,
           row_number() OVER (PARTITION BY session_id ORDER BY charge_time, position) AS n
    FROM temp.dropping CROSS JOIN usage_lines AS l USING (position)
    WHERE session_id <> '' AND kind = 'usage' AND line = 0
      AND NOT EXISTS (
          SELECT 1 FROM usage_lines AS v WHERE v.of_position = l.position AND v.kind = 'void')
)
SELECT ?1, session_id, max(user_id) FILTER (WHERE n = 1), count(DISTINCT user_id),
       count(DISTINCT turn), count(message), min(charge_time), max(charge_time)
FROM live
WHERE true
GROUP BY session_id
ON CONFLICT (tenant_id, session_id) DO UPDATE SET
    users = CASE WHEN users = 1 AND excluded.users = 1 AND user_id = excluded.user_id THEN 1
                 ELSE users + excluded.users END,
    turns = turns + excluded.turns,
    messages = messages + excluded.messages,
    first_time = min(first_time, excluded.first_time),
    last_time = max(last_time, excluded.last_time)
