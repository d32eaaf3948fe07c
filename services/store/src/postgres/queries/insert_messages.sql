-- Messages from $2, a JSON array, numbered from $1 on; those whose id stands are left alone. Answers
-- the numbers of those that are new.
INSERT INTO messages (
    number, tenant_id, message_id, fingerprint, user_id, session_id, role, message_type, sequence,
    stop_reason, tool_use_id, source_event_id, tokens, time, turn, recorded_at)
SELECT $1 + n, tenant_id, id, decode(fingerprint, 'hex'), user_id, session_id, role, message_type,
    sequence, stop_reason, tool_use_id, source_event_id, tokens, time, turn, recorded_at
FROM json_to_recordset($2::json) AS i (
    n BIGINT, tenant_id TEXT, id TEXT, fingerprint TEXT, user_id TEXT, session_id TEXT, role TEXT,
    message_type TEXT, sequence BIGINT, stop_reason TEXT, tool_use_id TEXT, source_event_id TEXT,
    tokens BIGINT, time BIGINT, turn BIGINT, recorded_at BIGINT)
ON CONFLICT DO NOTHING
RETURNING number - $1
