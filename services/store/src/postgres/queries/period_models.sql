-- What the rows of the positions ($5, $6] add to a user's figures of the times [$3, $4), by model.
SELECT provider, model, {sums}, max(recorded_at)
FROM usage_lines
WHERE tenant_id = $1 AND user_id = $2 AND charge_time >= $3 AND charge_time < $4
  AND position > $5 AND position <= $6
GROUP BY provider, model
