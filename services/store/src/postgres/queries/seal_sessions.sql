-- What is known of the sessions of a month beside their sums, voided events left out; {partition} is
-- the month's.
INSERT INTO sealed_sessions AS t (
    tenant_id, session_id, user_id, users, turns, messages, first_time, last_time)
SELECT tenant_id, session_id, (array_agg(user_id ORDER BY charge_time, position))[1],
       count(DISTINCT user_id), count(DISTINCT turn), count(message), min(charge_time),
       max(charge_time)
FROM {partition} AS l
WHERE session_id <> '' AND kind = 'usage' AND line = 0
  AND NOT EXISTS (
      SELECT 1 FROM {partition} AS v
      WHERE v.tenant_id = l.tenant_id AND v.of_position = l.position AND v.kind = 'void')
GROUP BY tenant_id, session_id
ON CONFLICT (tenant_id, session_id) DO UPDATE SET
    users = CASE WHEN t.users = 1 AND excluded.users = 1 AND t.user_id = excluded.user_id THEN 1
                 ELSE t.users + excluded.users END,
    turns = t.turns + excluded.turns,
    messages = t.messages + excluded.messages,
    first_time = least(t.first_time, excluded.first_time),
    last_time = greatest(t.last_time, excluded.last_time)
