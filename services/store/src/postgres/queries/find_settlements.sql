-- Which events have settled these reservations ($1 tenants, $2 reservations).
SELECT s.tenant_id, s.reservation_id, s.event_id
FROM unnest($1::text[], $2::text[]) AS wanted (tenant_id, reservation_id)
JOIN settlements AS s ON s.tenant_id = wanted.tenant_id AND s.reservation_id = wanted.reservation_id
