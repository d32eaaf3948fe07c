-- Settlements of reservations, and the API key with which an event was recorded.

-- Which event has settled a reservation: one, for ever. Written in the transaction of the event; its
-- void does not give the reservation free. Kept as long as event_keys, whose positions these are.
CREATE TABLE settlements (
    tenant_id      TEXT    NOT NULL,
    reservation_id TEXT    NOT NULL,
    event_id       TEXT    NOT NULL,
    position       INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, reservation_id)
) STRICT, WITHOUT ROWID;

-- Empty means other credentials. Corrections have that of the line which they correct.
ALTER TABLE usage_lines ADD COLUMN api_key_id TEXT NOT NULL DEFAULT '';
