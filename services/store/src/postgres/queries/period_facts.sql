-- The same for what events say beside tokens. An event counts at its first row, a void takes it out.
SELECT coalesce(sum(requests) FILTER (WHERE succeeded IS NOT NULL), 0)::bigint,
       coalesce(sum(requests) FILTER (WHERE succeeded), 0)::bigint,
       coalesce(sum(requests) FILTER (WHERE retrieval_ran IS NOT NULL), 0)::bigint,
       coalesce(sum(requests) FILTER (WHERE retrieval_ran), 0)::bigint,
       coalesce(sum(requests * coalesce(cases_retrieved, 0)), 0)::bigint
FROM usage_lines
WHERE tenant_id = $1 AND user_id = $2 AND charge_time >= $3 AND charge_time < $4
  AND position > $5 AND position <= $6
