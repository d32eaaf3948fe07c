-- Drops the overshoots of the events of a month that is about to be dropped.
DELETE FROM limit_overshoots AS o
WHERE EXISTS (
    SELECT 1 FROM {partition} AS l
    WHERE l.tenant_id = o.tenant_id AND l.event_id = o.event_id)
