-- The rows of the events that begin at `firsts` (tenant_id, position, charge_time, line_count), newest
-- event first: its lines, then its corrections, all in order of position. Each event is looked up on
-- its own, in the partition of its charge time.
SELECT l.*
FROM firsts AS f
CROSS JOIN LATERAL (
    SELECT * FROM usage_lines
    WHERE tenant_id = f.tenant_id AND charge_time = f.charge_time
      AND position >= f.position AND position < f.position + f.line_count
    UNION ALL
    SELECT * FROM usage_lines
    WHERE tenant_id = f.tenant_id AND charge_time = f.charge_time
      AND of_position >= f.position AND of_position < f.position + f.line_count
) AS l
ORDER BY f.charge_time DESC, f.position DESC, l.position
