-- Whether the server has everything up to a position that the log has come to: the primary has. On a
-- replica no transaction that could have written before it is still to come.
SELECT NOT pg_is_in_recovery()
    OR base + (pg_snapshot_xmin(pg_current_snapshot())::TEXT::BIGINT << 15) > $1
FROM ledger_state
WHERE id = 1
