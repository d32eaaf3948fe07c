-- Sums of one subject over stretches of buckets ({parts}: the number of what each is a part of, first,
-- past). LATERAL with sums inside reads each stretch on its own, by the primary key.
SELECT part.n, t.*
FROM (VALUES {parts}) AS part (n, first, past)
CROSS JOIN LATERAL (
    SELECT {sums}, max(updated_at) AS updated_at
    FROM usage_totals
    WHERE tenant_id = $1 AND scope = $2 AND subject = $3
      AND bucket >= part.first AND bucket < part.past
) AS t
