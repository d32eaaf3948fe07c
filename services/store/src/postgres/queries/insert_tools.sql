-- Uses of tools from $2, a JSON array, numbered from $1 on; those whose id stands are left alone.
-- Answers the numbers of those that are new.
INSERT INTO tool_invocations (
    number, tenant_id, invocation_id, fingerprint, tool, tool_use_id, user_id, session_id, turn, status,
    start_time, duration_ms, error_type, estimated_tokens, labels, recorded_at)
SELECT $1 + n, tenant_id, id, decode(fingerprint, 'hex'), tool, tool_use_id, user_id, session_id, turn,
    status, start_time, duration_ms, error_type, estimated_tokens, labels, recorded_at
FROM json_to_recordset($2::json) AS i (
    n BIGINT, tenant_id TEXT, id TEXT, fingerprint TEXT, tool TEXT, tool_use_id TEXT, user_id TEXT,
    session_id TEXT, turn BIGINT, status TEXT, start_time BIGINT, duration_ms BIGINT, error_type TEXT,
    estimated_tokens BIGINT, labels TEXT, recorded_at BIGINT)
ON CONFLICT DO NOTHING
RETURNING number - $1
