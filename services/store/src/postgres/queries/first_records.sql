-- The rows of these events as they were first recorded, each event's in order of line: $1 tenants,
-- $2 positions of the first lines, $3 charge times. An event's rows stand one after the other.
SELECT l.*
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS wanted (tenant_id, position, charge_time)
JOIN usage_lines AS l
  ON l.tenant_id = wanted.tenant_id
 AND l.position BETWEEN wanted.position AND wanted.position + 15
 AND l.charge_time = wanted.charge_time
 AND l.position - l.line = wanted.position
 AND l.kind = 'usage'
ORDER BY l.tenant_id, l.position
