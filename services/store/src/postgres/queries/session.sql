-- Facts about a session: the user of its first event, its users, its distinct turns, its first and
-- last time. Voided events are left out.
WITH standing AS (
    SELECT user_id, turn, charge_time, position FROM usage_lines AS l
    WHERE tenant_id = $1 AND session_id = $2 AND session_id <> '' AND kind = 'usage'
      AND NOT EXISTS (
          SELECT 1 FROM usage_lines AS v
          WHERE v.tenant_id = $1 AND v.session_id = $2 AND v.session_id <> ''
            AND v.of_position = l.position AND v.kind = 'void')
)
SELECT (SELECT user_id FROM standing ORDER BY charge_time, position LIMIT 1),
       count(DISTINCT user_id),
       count(DISTINCT turn), min(charge_time), max(charge_time)
FROM standing
HAVING count(*) > 0
