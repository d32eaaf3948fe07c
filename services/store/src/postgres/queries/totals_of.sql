-- Sums of one subject over stretches of time, a row for each part of a stretch: its whole buckets ($4
-- to $6: the stretch's number, first bucket, end) and its ragged edges ($7 to $9: number, from, to).
-- LATERAL with sums inside reads each part on its own: by the primary key of totals, and by an index
-- of the few partitions that an edge lies in.
SELECT part.n, t.*
FROM unnest($4::BIGINT[], $5::BIGINT[], $6::BIGINT[]) AS part (n, first, past)
CROSS JOIN LATERAL (
    SELECT {sums}, max(updated_at) AS updated_at
    FROM usage_totals
    WHERE tenant_id = $1 AND scope = $2 AND subject = $3
      AND bucket >= part.first AND bucket < part.past
) AS t
UNION ALL
SELECT edge.n, l.*
FROM unnest($7::BIGINT[], $8::BIGINT[], $9::BIGINT[]) AS edge (n, from_us, to_us)
CROSS JOIN LATERAL (
    SELECT {line_sums}, max(recorded_at)
    FROM usage_lines
    WHERE tenant_id = $1 AND {column} = $3 AND {column} <> ''
      AND charge_time >= edge.from_us AND charge_time < edge.to_us
) AS l
