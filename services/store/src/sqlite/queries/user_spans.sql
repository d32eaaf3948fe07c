-- A user's sums in spans of whole buckets ([first, end] pairs), those without events left out.
SELECT span.key, {sums}, max(t.updated_at)
FROM json_each(?3) AS span
CROSS JOIN usage_totals AS t
    ON t.tenant_id = ?1 AND t.scope = 'user' AND t.subject = ?2
   AND t.bucket >= span.value ->> 0 AND t.bucket < span.value ->> 1
GROUP BY span.key
HAVING sum(t.requests) > 0
ORDER BY span.key
LIMIT ?4
