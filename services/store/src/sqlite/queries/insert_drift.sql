-- Records a drift that was found, once for each run.
INSERT INTO drifts (
    tenant_id, reconcile_id, scope, subject, bucket, field, recorded, computed, drift_ppm, state,
    found_at, resolved_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
ON CONFLICT DO NOTHING
