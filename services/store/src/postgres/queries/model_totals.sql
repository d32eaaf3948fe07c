-- Sums of the tenant's models over whole buckets ($2: first, $3: past) and ragged edges ($4 to $5, $6 to
-- $7), of which lines are added up. Models are few and their buckets many, so that each model is found
-- by the key after the one before.
WITH RECURSIVE models (subject) AS (
    (SELECT subject FROM usage_totals
     WHERE tenant_id = $1 AND scope = 'model'
     ORDER BY subject LIMIT 1)
    UNION ALL
    SELECT (SELECT subject FROM usage_totals
            WHERE tenant_id = $1 AND scope = 'model' AND subject > m.subject
            ORDER BY subject LIMIT 1)
    FROM models AS m
    WHERE m.subject IS NOT NULL
), parts AS (
    SELECT m.subject, t.*
    FROM models AS m
    CROSS JOIN LATERAL (
        SELECT {sums}, max(updated_at) AS updated_at
        FROM usage_totals
        WHERE tenant_id = $1 AND scope = 'model' AND subject = m.subject
          AND bucket >= $2 AND bucket < $3
    ) AS t
    WHERE m.subject IS NOT NULL
    UNION ALL
    SELECT provider || '/' || model, {line_sums}, max(recorded_at)
    FROM usage_lines
    WHERE tenant_id = $1 AND charge_time >= $4 AND charge_time < $5
    GROUP BY provider, model
    UNION ALL
    SELECT provider || '/' || model, {line_sums}, max(recorded_at)
    FROM usage_lines
    WHERE tenant_id = $1 AND charge_time >= $6 AND charge_time < $7
    GROUP BY provider, model
)
SELECT subject, {sums}, max(updated_at) FROM parts GROUP BY subject
