-- By itself, so that the lines can be read while it is made: adding a column keeps readers out until
-- its transaction ends, and this takes as long as there are lines. Writers wait.
CREATE INDEX usage_lines_by_api_key ON usage_lines (tenant_id, api_key_id, charge_time)
    WHERE api_key_id <> '';
