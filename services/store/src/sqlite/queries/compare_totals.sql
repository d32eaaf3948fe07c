-- The totals of one scope that differ from what they are the sum of, lifetimes (bucket 0) and
-- quarter-hours that are not sealed: by how much they are too small, and what is recorded. Of tenant
-- ?1; {subject} is the subject of a line, {sealed} of a sealed total. ?2 is the first bucket that is
-- not sealed, ?3 the only subject if it is not empty.
WITH computed AS MATERIALIZED (
    SELECT {subject} AS subject, charge_time / 900000000 AS bucket, {of_lines}
    FROM usage_lines
    WHERE tenant_id = ?1 AND {counted} AND (?3 = '' OR {subject} = ?3)
    GROUP BY 1, 2
), recorded AS NOT MATERIALIZED (
    SELECT subject, bucket, {negative}
    FROM usage_totals
    WHERE tenant_id = ?1 AND scope = '{scope}' AND (?3 = '' OR subject = ?3)
), differences AS (
    SELECT subject, 0 AS bucket, {sums}
    FROM (
        SELECT subject, {columns} FROM computed
        UNION ALL
        SELECT {sealed}, {columns} FROM sealed_totals
        WHERE tenant_id = ?1 AND scope = '{sealed_scope}' AND (?3 = '' OR {sealed} = ?3)
        UNION ALL
        SELECT subject, {columns} FROM recorded WHERE bucket = 0
    )
    GROUP BY subject
    UNION ALL
    SELECT subject, bucket, {sums}
    FROM (
        SELECT subject, bucket, {columns} FROM computed WHERE '{scope}' <> 'session' AND bucket >= ?2
        UNION ALL
        SELECT subject, bucket, {columns} FROM recorded WHERE bucket > 0 AND bucket >= ?2
    )
    GROUP BY subject, bucket
)
SELECT d.subject, d.bucket, {differences}, {recorded}
FROM differences AS d
LEFT JOIN usage_totals AS t
    ON t.tenant_id = ?1 AND t.scope = '{scope}' AND t.subject = d.subject AND t.bucket = d.bucket
WHERE {differs}
