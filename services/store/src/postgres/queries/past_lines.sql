-- Lines by their positions.
SELECT * FROM usage_lines
WHERE tenant_id = $1 AND position = ANY ($2) AND charge_time BETWEEN $3 AND $4
ORDER BY position
