-- The messages of a session in order, as (whether of an event, position or number, time). One without a
-- sequence number is anchored to the highest number among those that are not later.
WITH all_of (is_event, id, place, sequence, time) AS (
    SELECT FALSE, message_id, number, sequence, time
    FROM messages
    WHERE tenant_id = $1 AND session_id = $2 AND number <= $4 AND ($3 = '' OR user_id = $3)
    UNION ALL
    SELECT TRUE, coalesce(nullif(message::JSONB ->> 'message_id', ''), event_id) COLLATE "C", position,
           (message::JSONB ->> 'sequence')::BIGINT, charge_time
    FROM usage_lines
    WHERE tenant_id = $1 AND session_id = $2 AND session_id <> '' AND position <= $5
      AND ($3 = '' OR user_id = $3)
      AND kind = 'usage' AND line = 0 AND message IS NOT NULL
), anchored AS (
    SELECT is_event, id, place, sequence, time,
           coalesce(sequence, max(sequence) OVER (ORDER BY time), -1) AS anchor
    FROM all_of
)
SELECT is_event, place, time
FROM anchored
ORDER BY anchor, sequence IS NULL, time, id, is_event, place
LIMIT $6 OFFSET $7
