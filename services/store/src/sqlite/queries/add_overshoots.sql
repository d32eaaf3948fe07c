-- Adds the overshoots of a batch, a JSON array; those that stand stay.
INSERT INTO limit_overshoots (
    tenant_id, event_id, scope, subject, limit_name, metric, limit_window, amount, cause)
SELECT ?1, value ->> 'event_id', value ->> 'scope', value ->> 'subject', value ->> 'limit_name',
       value ->> 'metric', value ->> 'window', value ->> 'amount', value ->> 'cause'
FROM json_each(?2)
WHERE true
ON CONFLICT DO NOTHING
