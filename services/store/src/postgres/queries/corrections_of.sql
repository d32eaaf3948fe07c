-- The corrections of the lines of the event of tenant $1 whose first line stands at $2, charged at $3.
SELECT * FROM usage_lines
WHERE tenant_id = $1 AND of_position BETWEEN $2 AND $2 + 15 AND charge_time = $3
ORDER BY position
