-- The end of a use that was reported as started. Its start is known again by its fingerprint, and
-- its start_time stands: lists that are paged through choose by it.
UPDATE tool_invocations
SET started_fingerprint = fingerprint, fingerprint = $3,
    status = $4, duration_ms = $5, error_type = $6, estimated_tokens = $7, labels = $8
WHERE tenant_id = $1 AND invocation_id = $2
