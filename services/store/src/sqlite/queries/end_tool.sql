-- The end of a use that was reported as started. Its start is known again by its fingerprint.
UPDATE tool_invocations
SET started_fingerprint = fingerprint, fingerprint = ?3,
    status = ?4, start_time = ?5, duration_ms = ?6, error_type = ?7, estimated_tokens = ?8,
    labels = ?9
WHERE tenant_id = ?1 AND invocation_id = ?2
