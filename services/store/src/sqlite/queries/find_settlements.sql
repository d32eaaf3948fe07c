-- Which events have settled these (tenant, reservation) pairs.
SELECT s.tenant_id, s.reservation_id, s.event_id
FROM json_each(?1) AS wanted
JOIN settlements AS s
  ON s.tenant_id = wanted.value ->> 0 AND s.reservation_id = wanted.value ->> 1
