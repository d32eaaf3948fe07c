-- Adds the hits of a batch, a JSON array in which each key stands once; those that stand count on.
INSERT INTO limit_hits (
    tenant_id, second, scope, subject, limit_name, metric, limit_window, enforcement, hard,
    profile_id, user_id, session_id, model, limit_amount, used, held, asked, count)
SELECT ?1, value ->> 'second_us', value ->> 'scope', value ->> 'subject', value ->> 'limit_name',
       value ->> 'metric', value ->> 'window', value ->> 'enforcement', value ->> 'hard',
       value ->> 'profile_id', value ->> 'user_id', value ->> 'session_id', value ->> 'model',
       value ->> 'limit', value ->> 'used', value ->> 'held', value ->> 'asked', value ->> 'count'
FROM json_each(?2)
WHERE true
ON CONFLICT (tenant_id, scope, subject, second, limit_name, metric, limit_window)
DO UPDATE SET count = count + excluded.count
