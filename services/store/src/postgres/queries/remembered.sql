-- Which server the ledger was on when it was last opened.
SELECT system_identifier, database_oid, table_oid,
       (SELECT server_start FROM openings ORDER BY number DESC LIMIT 1) AS start
FROM ledger_state
WHERE id = 1
