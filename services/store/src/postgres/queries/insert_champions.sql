-- Champion cases from $2, a JSON array, numbered from $1 on; those whose id stands are left alone.
-- Answers the numbers of those that are new.
INSERT INTO champion_cases (
    number, tenant_id, report_id, fingerprint, user_id, session_id, event_id, cases, time, recorded_at)
SELECT $1 + n, tenant_id, id, decode(fingerprint, 'hex'), user_id, session_id, event_id, cases, time,
    recorded_at
FROM json_to_recordset($2::json) AS i (
    n BIGINT, tenant_id TEXT, id TEXT, fingerprint TEXT, user_id TEXT, session_id TEXT, event_id TEXT,
    cases BIGINT, time BIGINT, recorded_at BIGINT)
ON CONFLICT DO NOTHING
RETURNING number - $1
