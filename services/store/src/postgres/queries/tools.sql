-- Tools, most calls first, with nearest-rank percentiles of their durations.
WITH uses AS (
    SELECT tool, status, start_time, duration_ms, estimated_tokens,
           row_number() OVER (PARTITION BY tool, duration_ms IS NULL ORDER BY duration_ms) AS rank,
           count(duration_ms) OVER (PARTITION BY tool) AS measured
    FROM tool_invocations
    WHERE tenant_id = $1 AND number <= $2 AND start_time >= $5 AND start_time < $6
      AND ($7 = '' OR user_id = $7)
      AND ($8 = '' OR (session_id <> '' AND session_id = $8))
      AND ($9 = '' OR tool = $9)
)
SELECT tool, count(*),
       count(*) FILTER (WHERE status = 'succeeded'),
       count(*) FILTER (WHERE status = 'failed'),
       count(*) FILTER (WHERE status = 'cancelled'),
       sum(estimated_tokens)::BIGINT, max(start_time),
       max(measured), sum(duration_ms)::BIGINT,
       min(duration_ms) FILTER (WHERE rank * 100 >= measured * 50),
       min(duration_ms) FILTER (WHERE rank * 100 >= measured * 90),
       min(duration_ms) FILTER (WHERE rank * 100 >= measured * 95),
       min(duration_ms) FILTER (WHERE rank * 100 >= measured * 99),
       max(duration_ms)
FROM uses
GROUP BY tool
ORDER BY count(*) DESC, tool
LIMIT $3 OFFSET $4
