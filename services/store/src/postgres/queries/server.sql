-- What the server is, and whether it keeps what it commits. The start tells one run of it from the next.
SELECT pg_is_in_recovery() AS standby,
       current_setting('server_version_num')::BIGINT AS version,
       current_setting('fsync') = 'on' AS fsync,
       current_setting('synchronous_commit') <> 'off' AS synchronous_commit,
       current_setting('full_page_writes') = 'on' AS full_page_writes,
       (SELECT system_identifier::TEXT FROM pg_control_system()) AS system_identifier,
       (SELECT oid::BIGINT FROM pg_database WHERE datname = current_database()) AS database_oid,
       coalesce(to_regclass('ledger_state')::OID::BIGINT, 0) AS table_oid,
       (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::BIGINT AS start
