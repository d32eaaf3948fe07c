-- Facts about a session: the user of its first event, its users, its distinct turns, its first and last time.
SELECT (SELECT user_id FROM usage_lines WHERE tenant_id = ?1 AND session_id = ?2 AND session_id <> ''
        ORDER BY charge_time, position LIMIT 1),
       count(DISTINCT user_id),
       count(DISTINCT turn), min(charge_time), max(charge_time)
FROM usage_lines
WHERE tenant_id = ?1 AND session_id = ?2 AND session_id <> '' AND kind = 'usage'
HAVING count(*) > 0
