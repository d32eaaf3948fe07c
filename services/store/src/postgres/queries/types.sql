-- The types that writes take, each with its array, as this database numbers them.
SELECT ARRAY['new_key'::regtype::oid, 'new_key[]'::regtype::oid] AS new_key,
       ARRAY['new_line_2'::regtype::oid, 'new_line_2[]'::regtype::oid] AS new_line_2,
       ARRAY['new_sums'::regtype::oid, 'new_sums[]'::regtype::oid] AS new_sums,
       ARRAY['new_commit'::regtype::oid, 'new_commit[]'::regtype::oid] AS new_commit,
       ARRAY['new_settlement'::regtype::oid, 'new_settlement[]'::regtype::oid] AS new_settlement
