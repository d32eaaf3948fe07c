-- A dump was restored here: another ledger from now on. Its transaction ids may begin below those that
-- the positions of the dump were made of; base lifts what comes above all of these.
UPDATE ledger_state
SET epoch = substr(md5(gen_random_uuid()::TEXT), 1, 16),
    secret = decode(replace(gen_random_uuid()::TEXT || gen_random_uuid()::TEXT, '-', ''), 'hex'),
    system_identifier = $1,
    database_oid = $2,
    table_oid = $3,
    base = greatest(base, greatest(
        (SELECT max(last_position) FROM commits), (SELECT max(position) FROM usage_lines),
        (SELECT max(position) FROM event_keys), (SELECT max(number) FROM tool_invocations),
        (SELECT max(number) FROM messages), (SELECT max(number) FROM champion_cases)
    ) - (pg_current_xact_id()::TEXT::BIGINT << 15))
WHERE id = 1
