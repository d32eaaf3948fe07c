-- Sums of the lines of one subject over stretches of time ({parts}: the number of what each is a part
-- of, from, to). LATERAL with sums inside reads each stretch on its own, by an index of the one or two
-- partitions that it lies in.
SELECT part.n, l.*
FROM (VALUES {parts}) AS part (n, from_us, to_us)
CROSS JOIN LATERAL (
    SELECT {line_sums}, max(recorded_at) AS updated_at
    FROM usage_lines
    WHERE tenant_id = $1 AND {column} = $3 AND {column} <> ''
      AND charge_time >= part.from_us AND charge_time < part.to_us
) AS l
