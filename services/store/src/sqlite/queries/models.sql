-- The models of a tenant, as subjects of totals. They are few and their buckets many, so that each is
-- found by the key after the one before.
WITH RECURSIVE models (subject) AS (
    SELECT min(subject) FROM usage_totals WHERE tenant_id = ?1 AND scope = 'model'
    UNION ALL
    SELECT (SELECT min(subject) FROM usage_totals
            WHERE tenant_id = ?1 AND scope = 'model' AND subject > m.subject)
    FROM models AS m
    WHERE m.subject IS NOT NULL
)
SELECT subject FROM models WHERE subject IS NOT NULL
