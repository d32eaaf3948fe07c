-- What the snapshot contains: what positions are counted from, the first transaction after all that it
-- can see, and those before that were in progress.
SELECT base, pg_snapshot_xmax(seen.snapshot)::TEXT::BIGINT,
       ARRAY (SELECT open::TEXT::BIGINT AS transaction
              FROM pg_snapshot_xip(seen.snapshot) AS open
              ORDER BY transaction)
FROM ledger_state, (SELECT pg_current_snapshot() AS snapshot) AS seen
WHERE id = 1
