-- The next commits of a tenant, as far as the log is complete, and when what they wrote was charged.
SELECT count(*) AS commits, max(last_position) AS last,
       min(first_charge_time) AS first_charge_time, max(last_charge_time) AS last_charge_time
FROM (
    SELECT last_position, first_charge_time, last_charge_time FROM commits
    WHERE tenant_id = $1 AND last_position > $2 AND last_position <= $3
    ORDER BY last_position
    LIMIT $4
) AS next
