-- The next $2 tenants with usage after $1, in their order, by probes of the key.
WITH RECURSIVE tenants (tenant_id, n) AS (
    SELECT (SELECT min(tenant_id) FROM usage_totals WHERE tenant_id > $1), 1
    UNION ALL
    SELECT (SELECT min(tenant_id) FROM usage_totals WHERE tenant_id > tenants.tenant_id), n + 1
    FROM tenants
    WHERE tenant_id IS NOT NULL AND n < $2
)
SELECT tenant_id FROM tenants WHERE tenant_id IS NOT NULL
