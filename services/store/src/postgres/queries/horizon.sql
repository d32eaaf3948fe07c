-- Up to where the log is complete. Transactions in progress that belong to writers, of which the first
-- is the end of what is complete; one that is in the snapshot and has no session is either just ended,
-- or just begun, and is taken for a writer's this once. All others hold up nobody. $1 is the position
-- up to which is known who was touched; $2 how many commits are looked at; $3 the lock of writers.
-- The end is a commit's, never a transaction id's alone: what is committed is on disk, and ids that
-- are not are given out again after a crash.
WITH seen AS MATERIALIZED (
    SELECT pg_current_snapshot() AS snapshot
), locks AS MATERIALIZED (
    SELECT locktype, transactionid, pid, database, (classid::BIGINT << 32) + objid::BIGINT AS key
    FROM pg_locks
    WHERE granted AND (locktype = 'transactionid' AND mode = 'ExclusiveLock'
                       OR locktype = 'advisory' AND objsubid = 1)
), held AS MATERIALIZED (
    SELECT open::TEXT::BIGINT AS transaction, l.pid
    FROM seen CROSS JOIN pg_snapshot_xip(snapshot) AS open
    LEFT JOIN locks AS l ON l.locktype = 'transactionid' AND l.transactionid = open::xid
    WHERE l.transactionid IS NULL
       OR l.pid IN (SELECT w.pid FROM locks AS w
                    WHERE w.locktype = 'advisory' AND w.key = $3
                      AND w.database = (SELECT oid FROM pg_database
                                        WHERE datname = current_database()))
    ORDER BY open
    LIMIT 1
), edge AS MATERIALIZED (
    SELECT base + (coalesce((SELECT transaction FROM held),
                            pg_snapshot_xmax(snapshot)::TEXT::BIGINT) << 15) AS position
    FROM ledger_state, seen
    WHERE id = 1
), fresh AS (
    SELECT tenant_id FROM commits
    WHERE last_position > $1 AND last_position < (SELECT position FROM edge)
    ORDER BY last_position
    LIMIT $2
)
SELECT (SELECT transaction FROM held) AS transaction,
       (SELECT pid FROM held) AS pid,
       coalesce((SELECT max(last_position) FROM commits
                 WHERE last_position < (SELECT position FROM edge)), 0) AS committed,
       coalesce((SELECT max(last_position) FROM commits)
                >= (SELECT position FROM edge), FALSE) AS waiting,
       (SELECT count(*) FROM fresh) AS commits,
       ARRAY (SELECT DISTINCT tenant_id FROM fresh) AS tenants
