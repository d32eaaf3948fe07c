-- Records the drifts that a run of tenant $1 found, once for each run ($2), at $11; answers the numbers
-- of those that were new, counted from 1.
WITH found AS (
    SELECT * FROM unnest(
        $3::TEXT[], $4::TEXT[], $5::BIGINT[], $6::TEXT[], $7::BIGINT[], $8::BIGINT[], $9::BIGINT[],
        $10::TEXT[]) WITH ORDINALITY
        AS f (scope, subject, bucket, field, recorded, computed, drift_ppm, state, n)
), inserted AS (
    INSERT INTO drifts (
        tenant_id, reconcile_id, scope, subject, bucket, field, recorded, computed, drift_ppm,
        state, found_at, resolved_at)
    SELECT $1, $2, scope, subject, bucket, field, recorded, computed, drift_ppm, state, $11,
           CASE state WHEN 'corrected' THEN $11 END
    FROM found
    ON CONFLICT DO NOTHING
    RETURNING scope, subject, bucket, field
)
SELECT f.n FROM found AS f JOIN inserted USING (scope, subject, bucket, field)
