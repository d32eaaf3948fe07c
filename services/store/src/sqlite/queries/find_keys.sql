-- The keys of these (tenant, event) pairs that stand in the ledger.
SELECT k.tenant_id, k.event_id, k.fingerprint, k.position
FROM json_each(?1) AS wanted
JOIN event_keys AS k
  ON k.tenant_id = wanted.value ->> 0 AND k.event_id = wanted.value ->> 1
