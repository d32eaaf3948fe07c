-- The server was started, or another one took its place, perhaps without the last transactions of the
-- one before: their ids are given out again. Base goes up by more than a standby could be missing, so
-- that their positions are not.
WITH raised AS (
    UPDATE ledger_state SET base = base + $2 WHERE id = 1
)
INSERT INTO openings (opening, after_position, server_start)
SELECT substr(md5(gen_random_uuid()::TEXT), 1, 16), coalesce(max(last_position), 0), $1 FROM commits
