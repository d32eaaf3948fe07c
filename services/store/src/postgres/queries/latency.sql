-- Nearest-rank percentiles of one metric over a tenant's events in a range: of all of them (both
-- names empty) and of each model's, by the model of the event's first line. {metric} is a column.
-- Voided events are left out.
WITH measured AS (
    SELECT provider, model, {metric} AS ms
    FROM usage_lines AS l
    WHERE tenant_id = $1 AND charge_time >= $2 AND charge_time < $3
      AND ($4 = '' OR provider = $4) AND ($5 = '' OR model = $5)
      AND kind = 'usage' AND line = 0 AND {metric} IS NOT NULL
      AND NOT EXISTS (
          SELECT 1 FROM usage_lines AS v
          WHERE v.tenant_id = $1 AND v.of_position = l.position AND v.kind = 'void'
            AND v.charge_time >= $2 AND v.charge_time < $3)
), grouped AS (
    SELECT '' AS provider, '' AS model, ms FROM measured
    UNION ALL
    SELECT provider, model, ms FROM measured
), ranked AS (
    SELECT provider, model, ms,
           row_number() OVER (PARTITION BY provider, model ORDER BY ms) AS rank,
           count(*) OVER (PARTITION BY provider, model) AS total
    FROM grouped
)
SELECT provider, model, max(total), sum(ms)::BIGINT,
       min(ms) FILTER (WHERE rank * 100 >= total * 50),
       min(ms) FILTER (WHERE rank * 100 >= total * 90),
       min(ms) FILTER (WHERE rank * 100 >= total * 95),
       min(ms) FILTER (WHERE rank * 100 >= total * 99),
       max(ms)
FROM ranked
GROUP BY provider, model
