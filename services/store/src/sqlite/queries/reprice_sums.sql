-- What reprices added to each of the lines in ?1, a JSON array of positions; price_version is the
-- last one's, the row that max() is of.
SELECT of_position, price_version, max(position),
       sum(cost_nano_usd) AS cost_nano_usd,
       sum(cache_saving_nano_usd) AS cache_saving_nano_usd,
       sum(cache_write_extra_nano_usd) AS cache_write_extra_nano_usd
FROM usage_lines
WHERE of_position IN (SELECT value FROM json_each(?1)) AND kind = 'reprice'
GROUP BY of_position
