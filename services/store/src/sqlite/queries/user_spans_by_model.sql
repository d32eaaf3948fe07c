-- A user's sums in spans of time ([from, to] pairs) by model: of lines, and of the months that are
-- sealed ([number of the span, month] pairs).
WITH parts (span, provider, model, {columns}, updated_at) AS (
    SELECT span.key, l.provider, l.model, {of_line}, l.recorded_at
    FROM json_each(?3) AS span
    CROSS JOIN usage_lines AS l
        ON l.tenant_id = ?1 AND l.user_id = ?2
       AND l.charge_time >= span.value ->> 0 AND l.charge_time < span.value ->> 1
    UNION ALL
    SELECT sealed.value ->> 0, t.provider, t.model, {columns}, t.updated_at
    FROM json_each(?4) AS sealed
    CROSS JOIN sealed_totals AS t
        ON t.tenant_id = ?1 AND t.scope = 'user' AND t.subject = ?2
       AND t.month = sealed.value ->> 1
)
SELECT span, provider, model, {sums}, max(updated_at)
FROM parts
GROUP BY span, provider, model
ORDER BY span, provider, model
