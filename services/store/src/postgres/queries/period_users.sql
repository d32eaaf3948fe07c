-- The next $5 users of a tenant after $2, in their order, by probes of the key: whether each has usage
-- in the quarter-hours [$3, $4), and whether the month $6 is closed for it.
WITH RECURSIVE users (user_id, n) AS (
    SELECT (SELECT min(subject) FROM usage_totals
            WHERE tenant_id = $1 AND scope = 'user' AND subject > $2), 1
    UNION ALL
    SELECT (SELECT min(subject) FROM usage_totals
            WHERE tenant_id = $1 AND scope = 'user' AND subject > users.user_id), n + 1
    FROM users
    WHERE user_id IS NOT NULL AND n < $5
)
SELECT user_id,
       EXISTS (SELECT 1 FROM usage_totals AS t
               WHERE t.tenant_id = $1 AND t.scope = 'user' AND t.subject = users.user_id
                 AND t.bucket >= $3 AND t.bucket < $4 AND t.requests > 0),
       EXISTS (SELECT 1 FROM periods AS p
               WHERE p.tenant_id = $1 AND p.user_id = users.user_id AND p.period_id = $6)
FROM users
WHERE user_id IS NOT NULL
