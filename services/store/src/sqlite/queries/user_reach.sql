-- The first and the last charge time of a user: two probes of the index. Of what was dropped the
-- quarter-hours are known, each ?3 microseconds.
WITH times (first, last) AS (
    SELECT (SELECT charge_time FROM usage_lines WHERE tenant_id = ?1 AND user_id = ?2
            ORDER BY charge_time LIMIT 1),
           (SELECT charge_time FROM usage_lines WHERE tenant_id = ?1 AND user_id = ?2
            ORDER BY charge_time DESC LIMIT 1)
    UNION ALL
    SELECT min(bucket) * ?3, max(bucket) * ?3 FROM usage_totals
    WHERE tenant_id = ?1 AND scope = 'user' AND subject = ?2 AND bucket > 0
      AND bucket < (SELECT sealed_before FROM ledger_state) / ?3
)
SELECT min(first), max(last) FROM times
