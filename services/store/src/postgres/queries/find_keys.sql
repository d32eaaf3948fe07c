-- The keys of these events ($1 tenants, $2 event ids) that stand in the ledger.
SELECT k.tenant_id, k.event_id, k.fingerprint, k.position, k.charge_time
FROM unnest($1::text[], $2::text[]) AS wanted (tenant_id, event_id)
JOIN event_keys AS k ON k.tenant_id = wanted.tenant_id AND k.event_id = wanted.event_id
