-- Adds the sums of the rows that are about to be dropped, of tenant ?1 and month ?2, to what is sealed
-- of their {scope}s.
INSERT INTO sealed_totals (
    tenant_id, scope, subject, month, provider, model, {columns}, updated_at)
SELECT ?1, '{scope}', {scope}_id, ?2, provider, model, {sums}, max(recorded_at)
FROM temp.dropping CROSS JOIN usage_lines USING (position)
WHERE '{scope}' = 'user' OR {scope}_id <> ''
GROUP BY {scope}_id, provider, model
ON CONFLICT (tenant_id, scope, subject, month, provider, model) DO UPDATE SET {adds},
    updated_at = max(updated_at, excluded.updated_at)
