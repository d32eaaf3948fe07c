-- Sessions by a lifetime figure as of a position: today's totals less what came after it.
WITH figures (session_id, requests, figure) AS (
    SELECT subject, requests, {figure} FROM usage_totals
    WHERE tenant_id = $1 AND scope = 'session' AND bucket = 0
    UNION ALL
    SELECT session_id, -requests, -({figure}) FROM usage_lines
    WHERE tenant_id = $1 AND position > $2 AND session_id <> ''
)
SELECT session_id
FROM figures
WHERE {user}
GROUP BY session_id
HAVING sum(requests) > 0
ORDER BY sum(figure) DESC, session_id
LIMIT $3 OFFSET $4
