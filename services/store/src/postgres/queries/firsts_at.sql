-- The events that begin at given places, for event_rows.sql.
SELECT l.tenant_id, l.position, l.charge_time, l.line_count
FROM unnest($2::BIGINT[], $3::BIGINT[]) AS place (position, charge_time)
CROSS JOIN LATERAL (
    SELECT * FROM usage_lines
    WHERE tenant_id = $1 AND position = place.position AND charge_time = place.charge_time
    OFFSET 0
) AS l
