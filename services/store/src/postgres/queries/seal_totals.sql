-- Adds the sums of a month's lines, of every tenant, to what is sealed; {partition} is the month's and
-- $1 its first instant. Answers the sums and how many events there were, by tenant.
WITH sums AS MATERIALIZED (
    SELECT tenant_id,
           CASE WHEN grouping(user_id) = 0 THEN 'user'
                WHEN grouping(team_id) = 0 THEN 'team' ELSE 'session' END AS scope,
           coalesce(user_id, team_id, session_id) AS subject, provider, model,
           {line_sums}, max(recorded_at) AS updated_at,
           count(*) FILTER (WHERE kind = 'usage' AND line = 0) AS events
    FROM {partition}
    GROUP BY GROUPING SETS (
        (tenant_id, user_id, provider, model),
        (tenant_id, team_id, provider, model),
        (tenant_id, session_id, provider, model))
), sealed AS (
    INSERT INTO sealed_totals AS t (
        tenant_id, scope, subject, month, provider, model, {columns}, updated_at)
    SELECT tenant_id, scope, subject, $1, provider, model, {figures}, updated_at
    FROM sums
    WHERE (scope = 'user' OR subject <> '') AND {sealing}
    ON CONFLICT (tenant_id, scope, subject, month, provider, model) DO UPDATE SET {adds},
        updated_at = greatest(t.updated_at, excluded.updated_at)
)
SELECT tenant_id, {sums}, max(updated_at), sum(events)::BIGINT
FROM sums
WHERE scope = 'user'
GROUP BY tenant_id
