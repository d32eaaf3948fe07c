-- Where the logs of the tenants of a month begin, when it is dropped; {partition} is the month's.
INSERT INTO log_starts AS t (tenant_id, position)
SELECT tenant_id, max(position) FROM {partition} GROUP BY tenant_id
ON CONFLICT (tenant_id) DO UPDATE SET position = greatest(t.position, excluded.position)
