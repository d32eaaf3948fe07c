-- The first and the last charge time of a user: partitions are read from their end of time until one
-- has the user, each by a probe of its index.
SELECT (SELECT charge_time FROM usage_lines WHERE tenant_id = $1 AND user_id = $2
        ORDER BY charge_time LIMIT 1),
       (SELECT charge_time FROM usage_lines WHERE tenant_id = $1 AND user_id = $2
        ORDER BY charge_time DESC LIMIT 1)
