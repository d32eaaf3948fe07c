-- How many users and sessions have an event in a range.
SELECT count(DISTINCT user_id), count(DISTINCT nullif(session_id, ''))
FROM usage_lines
WHERE tenant_id = ?1 AND charge_time >= ?2 AND charge_time < ?3
  AND (?4 = '' OR provider = ?4) AND (?5 = '' OR model = ?5)
  AND kind = 'usage'
