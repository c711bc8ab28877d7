"""The list of statements that cannot run in a transaction block, held against the server."""

from __future__ import annotations

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.commands import needs_no_transaction
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import split

ACTIVE_TRANSACTION = "25001"
SETUP = """
CREATE TABLE t (a int PRIMARY KEY);
CREATE INDEX i ON t (a);
CREATE TABLE "concurrently" ("vacuum" int, "detach partition p concurrently" int);
CREATE TABLE p (a int) PARTITION BY LIST (a);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE TYPE mood AS ENUM ('ok');
CREATE MATERIALIZED VIEW m AS SELECT a FROM t;
CREATE UNIQUE INDEX ON m (a);
CREATE SUBSCRIPTION off CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false);
CREATE SUBSCRIPTION running CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false);
ALTER SUBSCRIPTION running ENABLE;
"""
TEARDOWN = """
ALTER SUBSCRIPTION running DISABLE;
ALTER SUBSCRIPTION running SET (slot_name = NONE);
ALTER SUBSCRIPTION off SET (slot_name = NONE);
DROP SUBSCRIPTION running;
DROP SUBSCRIPTION off;
"""
NEEDS = """
CREATE INDEX CONCURRENTLY j ON t (a);
create unique index /* c */ concurrently IF NOT EXISTS j ON t (a);
CREATE INDEX CONCURRENTLY ON t (a);
DROP INDEX CONCURRENTLY i;
DROP INDEX CONCURRENTLY IF EXISTS i;
REINDEX INDEX CONCURRENTLY i;
REINDEX TABLE CONCURRENTLY t;
REINDEX (CONCURRENTLY) TABLE t;
REINDEX (VERBOSE, CONCURRENTLY TRUE) INDEX i;
REINDEX (CONCURRENTLY 'on') TABLE t;
REINDEX DATABASE;
REINDEX SCHEMA public;
REINDEX (VERBOSE) SYSTEM;
REINDEX (CONCURRENTLY FALSE) SCHEMA public;
VACUUM;
VACUUM FULL t;
VACUUM (ANALYZE) t;
CREATE DATABASE d;
DROP DATABASE d;
DROP DATABASE IF EXISTS d;
ALTER DATABASE postgres SET TABLESPACE pg_default;
ALTER DATABASE "post gres" SET TABLESPACE pg_default;
CREATE TABLESPACE s LOCATION '/nowhere';
DROP TABLESPACE s;
ALTER SYSTEM SET work_mem = '4MB';
ALTER SYSTEM RESET ALL;
CLUSTER;
CLUSTER VERBOSE;
CLUSTER (VERBOSE);
ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY;
ALTER TABLE IF EXISTS public."p" DETACH PARTITION public.p1 CONCURRENTLY;
CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p;
CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (create_slot, copy_data = false);
CREATE SUBSCRIPTION s CONNECTION 'with ( connect = false )' PUBLICATION p WITH (slot_name = 'x');
DROP SUBSCRIPTION off;
DROP SUBSCRIPTION IF EXISTS off;
ALTER SUBSCRIPTION running REFRESH PUBLICATION;
ALTER SUBSCRIPTION running REFRESH PUBLICATION WITH (copy_data = false);
ALTER SUBSCRIPTION running SET PUBLICATION p, q;
ALTER SUBSCRIPTION running ADD PUBLICATION q WITH (copy_data = false);
ALTER SUBSCRIPTION off SET (failover);
DISCARD ALL;
discard /* c */ all;
"""
ALLOWED = """
CREATE INDEX "concurrently" ON t (a);
CREATE INDEX j ON "concurrently" ("vacuum");
CREATE INDEX j ON t ((a + length('CONCURRENTLY')));
DROP INDEX i;
DROP INDEX IF EXISTS "concurrently";
REINDEX INDEX i;
REINDEX TABLE t;
REINDEX TABLE "concurrently";
REINDEX (VERBOSE) TABLE t;
REINDEX (CONCURRENTLY FALSE) TABLE t;
REINDEX (CONCURRENTLY off, VERBOSE) INDEX i;
REINDEX (CONCURRENTLY 'false') INDEX i;
REINDEX (TABLESPACE concurrently) TABLE t;
ANALYZE;
CLUSTER t USING t_pkey;
CLUSTER VERBOSE t USING t_pkey;
ALTER DATABASE postgres SET work_mem = '4MB';
ALTER DATABASE postgres RENAME TO tablespace;
ALTER TABLE t SET TABLESPACE pg_default;
ALTER TABLE p DETACH PARTITION p1;
ALTER TABLE p DETACH PARTITION "concurrently";
ALTER TABLE "concurrently" DROP COLUMN "detach partition p concurrently";
ALTER TABLE p DETACH PARTITION p1 FINALIZE;
CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false);
CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = 'off', enabled = false);
CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (create_slot = false, enabled = false);
ALTER SUBSCRIPTION off SET PUBLICATION q WITH (refresh = false);
ALTER SUBSCRIPTION off SET (synchronous_commit = off);
ALTER SUBSCRIPTION off RENAME TO refresh;
DISCARD PLANS;
DISCARD TEMP;
DISCARD SEQUENCES;
REFRESH MATERIALIZED VIEW CONCURRENTLY m;
ALTER TYPE mood ADD VALUE 'fine';
COMMENT ON TABLE t IS 'VACUUM';
SELECT 'DROP DATABASE x', "vacuum" FROM "concurrently";
DO $$ BEGIN RAISE NOTICE 'VACUUM'; END $$;
TRUNCATE t;
LOCK TABLE t;
"""
LINES = [(line, True) for line in NEEDS.strip().split("\n")] + [(line, False) for line in ALLOWED.strip().split("\n")]


@pytest.fixture(scope="module")
def prepared(cluster) -> psycopg.Connection:  # type: ignore[no-untyped-def]
    with cluster.connect() as admin:
        admin.execute("CREATE DATABASE no_transaction TEMPLATE template0")
    with cluster.connect("no_transaction") as session:
        for statement in split(SETUP):
            session.execute(statement.text.encode())
        yield session
        for statement in split(TEARDOWN):
            session.execute(statement.text.encode())
    with cluster.connect() as admin:
        admin.execute("DROP DATABASE no_transaction WITH (FORCE)")


def sqlstate_in_a_transaction(session: psycopg.Connection, sql: str) -> str | None:
    """SQLSTATE of a statement inside BEGIN ... ROLLBACK; None when it works."""
    session.execute("BEGIN")
    try:
        session.execute(sql.encode())
    except psycopg.Error as error:
        return error.sqlstate
    finally:
        session.execute("ROLLBACK")
    return None


@pytest.mark.parametrize(("line", "needs"), LINES, ids=[line for line, _ in LINES])
def test_as_the_server_has_it(prepared: psycopg.Connection, line: str, needs: bool) -> None:
    (statement,) = split(line)
    refused = sqlstate_in_a_transaction(prepared, statement.text) == ACTIVE_TRANSACTION
    assert (needs_no_transaction(statement), refused) == (needs, needs)
