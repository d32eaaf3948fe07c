-- A user's sums in spans of time ($3: from, $4: to) by model: of lines, and of the months that are
-- sealed ($5: number of the span, $6: month).
WITH parts AS (
    SELECT span.n - 1 AS span, l.*
    FROM unnest($3::BIGINT[], $4::BIGINT[]) WITH ORDINALITY AS span (from_us, to_us, n)
    CROSS JOIN LATERAL (
        SELECT provider, model, {line_sums}, max(recorded_at) AS updated_at
        FROM usage_lines
        WHERE tenant_id = $1 AND user_id = $2
          AND charge_time >= span.from_us AND charge_time < span.to_us
        GROUP BY provider, model
    ) AS l
    UNION ALL
    SELECT sealed.span, t.provider, t.model, {columns}, t.updated_at
    FROM unnest($5::BIGINT[], $6::BIGINT[]) AS sealed (span, month)
    JOIN sealed_totals AS t
      ON t.tenant_id = $1 AND t.scope = 'user' AND t.subject = $2 AND t.month = sealed.month
)
SELECT span, provider, model, {sums}, max(updated_at)
FROM parts
GROUP BY span, provider, model
ORDER BY span, provider, model
