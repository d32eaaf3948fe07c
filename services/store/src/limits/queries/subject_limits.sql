-- What subjects have of their own, a row each, in the order asked: {asked} is their places, scopes and
-- names. Each is looked up by the primary keys.
WITH asked (place, scope, subject) AS (VALUES {asked})
SELECT a.profile_id, o.limits
FROM asked
LEFT JOIN profile_assignments AS a
    ON a.tenant_id = $1 AND a.scope = asked.scope AND a.subject = asked.subject
LEFT JOIN own_limits AS o
    ON o.tenant_id = $1 AND o.scope = asked.scope AND o.subject = asked.subject
ORDER BY asked.place
