-- The lease of a job, unless another holds it or the period is done. Answers its generation, or nothing.
INSERT INTO jobs (name, node, generation, lease_until, last_start, last_end, running, succeeded,
                  detail, last_key, failures)
VALUES (?1, ?2, 1, {now} + ?4, {now}, NULL, 1, NULL, '', '', 0)
ON CONFLICT (name) DO UPDATE SET
    node = excluded.node, generation = generation + 1, lease_until = excluded.lease_until,
    last_start = excluded.last_start, running = 1
WHERE {anyway} OR (lease_until <= excluded.last_start AND last_key < ?3)
RETURNING generation
