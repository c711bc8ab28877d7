# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a backup asks about large objects."""

from __future__ import annotations

COUNT = """
SELECT (SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata) AS count,
       coalesce(pg_catalog.sum(pg_catalog.hash_record_extended(
         ROW(l.oid, at, pg_catalog.lo_get(l.oid, at, 1048576)), 0)), 0)::text AS digest
FROM (SELECT oid, pg_catalog.lo_lseek64(pg_catalog.lo_open(oid, 262144), 0, 2) AS size
      FROM pg_catalog.pg_largeobject_metadata OFFSET 0) AS l, pg_catalog.generate_series(0, l.size, 1048576) AS at"""
"""Their number, and the sum of a 64 bit hash of every piece of every one; in pieces, since one may be larger than a
value can be. 262144 is INV_READ (libpq-fs.h), 2 is SEEK_END. Inside a transaction, whose snapshot counts."""

UNREADABLE = """
SELECT l.oid::bigint AS oid
FROM pg_catalog.pg_largeobject_metadata l
WHERE NOT pg_catalog.pg_has_role(l.lomowner, 'USAGE')
  AND pg_catalog.current_setting('lo_compat_privileges') = 'off'
  AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(l.lomacl) a WHERE a.privilege_type = 'SELECT'
                  AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))
ORDER BY 1"""
"""Those that the role may not read. A superuser is a member of every role."""
