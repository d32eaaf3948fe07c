-- A tenant's profiles by id, those that ship included; its own row of a shipped one in that one's place.
SELECT profile, version, created_at, updated_at,
       EXISTS (
           SELECT 1 FROM profiles AS first
           WHERE first.tenant_id = '' AND first.profile_id = p.profile_id) AS shipped
FROM profiles AS p
WHERE tenant_id IN ('', $1) AND {which}
  AND (tenant_id <> '' OR NOT EXISTS (
      SELECT 1 FROM profiles AS own
      WHERE own.tenant_id = $1 AND own.profile_id = p.profile_id))
ORDER BY profile_id
