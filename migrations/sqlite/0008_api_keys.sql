-- By itself, as in PostgreSQL, where it must not hold up readers.
CREATE INDEX usage_lines_by_api_key ON usage_lines (tenant_id, api_key_id, charge_time)
    WHERE api_key_id <> '';
