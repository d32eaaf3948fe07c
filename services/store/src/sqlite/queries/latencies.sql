-- Nearest-rank percentiles of the response times of a tenant's events in a range.
WITH ranked AS (
    SELECT latency_ms,
           row_number() OVER (ORDER BY latency_ms) AS rank,
           count(*) OVER () AS total
    FROM usage_lines
    WHERE tenant_id = ?1 AND charge_time >= ?2 AND charge_time < ?3
      AND kind = 'usage' AND line = 0 AND latency_ms IS NOT NULL
)
SELECT coalesce(min(latency_ms) FILTER (WHERE rank * 100 >= total * 50), 0),
       coalesce(min(latency_ms) FILTER (WHERE rank * 100 >= total * 90), 0),
       coalesce(min(latency_ms) FILTER (WHERE rank * 100 >= total * 95), 0),
       coalesce(min(latency_ms) FILTER (WHERE rank * 100 >= total * 99), 0)
FROM ranked
