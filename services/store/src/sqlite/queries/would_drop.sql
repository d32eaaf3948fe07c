-- What a purge of everything before ?1 would drop, by tenant.
SELECT tenant_id, {sums}, max(recorded_at), sum(kind = 'usage' AND line = 0)
FROM usage_lines
WHERE charge_time < ?1
GROUP BY tenant_id
