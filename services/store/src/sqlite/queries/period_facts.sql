-- The same for what events say beside tokens. An event counts at its first row, a void takes it out.
SELECT coalesce(sum(requests * (succeeded IS NOT NULL)), 0),
       coalesce(sum(requests * coalesce(succeeded, 0)), 0),
       coalesce(sum(requests * (retrieval_ran IS NOT NULL)), 0),
       coalesce(sum(requests * coalesce(retrieval_ran, 0)), 0),
       coalesce(sum(requests * coalesce(cases_retrieved, 0)), 0)
FROM usage_lines
WHERE tenant_id = ?1 AND user_id = ?2 AND charge_time >= ?3 AND charge_time < ?4
  AND position > ?5 AND position <= ?6
