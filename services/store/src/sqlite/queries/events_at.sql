-- The lines of the events whose first lines stand at these positions, event by event.
SELECT l.*
FROM json_each(?1) AS first
JOIN usage_lines AS f ON f.position = first.value
JOIN usage_lines AS l ON l.position BETWEEN f.position AND f.position + f.line_count - 1
ORDER BY l.position
