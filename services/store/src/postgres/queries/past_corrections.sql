-- What corrects lines, by the lines' positions; it has their charge times.
SELECT * FROM usage_lines
WHERE tenant_id = $1 AND of_position = ANY ($2) AND charge_time BETWEEN $3 AND $4
ORDER BY position
