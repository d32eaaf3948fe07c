-- Sessions by the charge time of their last event as of a position. All rows of an event have its
-- charge time, so that only those of voided events have to be left out, and without a user the
-- index alone is read.
WITH voided (position) AS MATERIALIZED (
    SELECT of_position FROM usage_lines INDEXED BY usage_lines_corrections
    WHERE of_position IS NOT NULL AND kind = 'void' AND tenant_id = ?1 AND +position <= ?2
), hidden (position) AS MATERIALIZED (
    SELECT position FROM voided
    UNION ALL
    SELECT position FROM usage_lines WHERE of_position IN (SELECT position FROM voided)
)
SELECT session_id
FROM usage_lines
WHERE tenant_id = ?1 AND session_id <> '' AND +position <= ?2 AND {user}
  AND +position NOT IN (SELECT position FROM hidden)
GROUP BY session_id
HAVING max(charge_time) >= ?5 AND max(charge_time) < ?6
ORDER BY max(charge_time) DESC, session_id
LIMIT ?3 OFFSET ?4
