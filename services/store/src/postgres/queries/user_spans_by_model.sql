-- A user's sums in spans of time ($3: from, $4: to) by model.
SELECT span.n - 1, l.*
FROM unnest($3::BIGINT[], $4::BIGINT[]) WITH ORDINALITY AS span (from_us, to_us, n)
CROSS JOIN LATERAL (
    SELECT provider, model, {line_sums}, max(recorded_at)
    FROM usage_lines
    WHERE tenant_id = $1 AND user_id = $2
      AND charge_time >= span.from_us AND charge_time < span.to_us
    GROUP BY provider, model
) AS l
ORDER BY span.n, l.provider, l.model
