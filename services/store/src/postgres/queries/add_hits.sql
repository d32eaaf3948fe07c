-- Adds the hits of a batch, a JSON array in which each key stands once; those that stand count on.
INSERT INTO limit_hits AS h (
    tenant_id, second, scope, subject, limit_name, metric, limit_window, enforcement, hard,
    profile_id, user_id, session_id, model, limit_amount, used, held, asked, count)
SELECT $1, second_us, scope, subject, limit_name, metric, "window", enforcement, hard,
       profile_id, user_id, session_id, model, "limit", used, held, asked, count
FROM json_to_recordset($2::JSON) AS n (
    second_us BIGINT, scope TEXT, subject TEXT, limit_name TEXT, metric TEXT, "window" TEXT,
    enforcement TEXT, hard BOOLEAN, profile_id TEXT, user_id TEXT, session_id TEXT, model TEXT,
    "limit" BIGINT, used BIGINT, held BIGINT, asked BIGINT, count BIGINT)
ON CONFLICT (tenant_id, scope, subject, second, limit_name, metric, limit_window)
DO UPDATE SET count = h.count + excluded.count
