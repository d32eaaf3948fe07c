-- A position up to which everything is here, as a replica can tell it: what its oldest open transaction
-- writes comes after.
SELECT base + (pg_snapshot_xmin(pg_current_snapshot())::TEXT::BIGINT << 15) - 1
FROM ledger_state
WHERE id = 1
