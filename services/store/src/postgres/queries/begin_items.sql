-- What the numbers of a group's items are counted from, and the first instant of what is not sealed,
-- which stays so until the transaction ends.
SELECT base + (pg_current_xact_id()::text::bigint << 15), sealed_before
FROM ledger_state WHERE id = 1
FOR SHARE
