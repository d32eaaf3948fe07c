-- A user's sums in spans of time ([from, to] pairs) by model, most tokens first.
SELECT span.key, l.provider, l.model, {sums}, max(l.recorded_at)
FROM json_each(?3) AS span
CROSS JOIN usage_lines AS l
    ON l.tenant_id = ?1 AND l.user_id = ?2
   AND l.charge_time >= span.value ->> 0 AND l.charge_time < span.value ->> 1
GROUP BY span.key, l.provider, l.model
ORDER BY span.key, l.provider, l.model
