-- A user's champion cases and uses of tools in the times [$3, $4).
SELECT (SELECT coalesce(sum(cases), 0)::bigint FROM champion_cases
        WHERE tenant_id = $1 AND user_id = $2 AND time >= $3 AND time < $4),
       (SELECT count(*) FROM tool_invocations
        WHERE tenant_id = $1 AND user_id = $2 AND start_time >= $3 AND start_time < $4)
