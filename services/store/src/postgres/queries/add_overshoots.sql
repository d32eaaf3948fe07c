-- Adds the overshoots of a batch, a JSON array; those that stand stay.
INSERT INTO limit_overshoots (
    tenant_id, event_id, scope, subject, limit_name, metric, limit_window, amount, cause)
SELECT $1, event_id, scope, subject, limit_name, metric, "window", amount, cause
FROM json_to_recordset($2::JSON) AS n (
    event_id TEXT, scope TEXT, subject TEXT, limit_name TEXT, metric TEXT, "window" TEXT,
    amount BIGINT, cause TEXT)
ON CONFLICT DO NOTHING
