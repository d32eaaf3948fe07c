-- A user's sums in spans of whole buckets ($3: first, $4: past), those without events left out.
SELECT span.n - 1, t.*
FROM unnest($3::BIGINT[], $4::BIGINT[]) WITH ORDINALITY AS span (first, past, n)
CROSS JOIN LATERAL (
    SELECT {sums}, max(updated_at)
    FROM usage_totals
    WHERE tenant_id = $1 AND scope = 'user' AND subject = $2
      AND bucket >= span.first AND bucket < span.past
) AS t
WHERE t.requests > 0
ORDER BY span.n
LIMIT $5
