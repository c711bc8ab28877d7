"""What is said beforehand about a restore by a role that is no superuser is what really happens, case by case."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import dump, fidelity, restore
from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import find_tools
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import READ, BackupError

from demo.embedded import postgres
from tests import servers
from tests.conftest import Cluster

BIN = str(postgres.BIN)
RUN = "20261122t100261z-k3f"
HOW = dump.How(bin_dir=BIN, proof=READ)
ROLES = ("fid_own", "fid_member", "fid_other", "fid_third", "fid_noinherit")
SOURCE, COPY = "fid_source", "fid_copy"

TABLE = "@fid_own CREATE TABLE t (id int PRIMARY KEY, x text)"
ENUM = "@fid_own CREATE TYPE e AS ENUM ('a')"
G = "CREATE FUNCTION g({}) RETURNS {} LANGUAGE {} {} AS '{}'; ALTER FUNCTION g({}) OWNER TO fid_own"


def g(takes: str = "", gives: str = "int", language: str = "sql", more: str = "", body: str = "SELECT 1") -> str:
    return G.format(takes, gives, language, more, body, takes)


def granted_on(what: str, kind: str = "", right: str = "ALL") -> list[str]:
    """A right that somebody else than the owner has granted."""
    return [
        f"@fid_own GRANT {right} ON {kind} {what} TO fid_third WITH GRANT OPTION",
        f"@fid_third GRANT {right} ON {kind} {what} TO fid_other",
    ]


# Statements run as the superuser, those that begin with @ as this role.
FAILS: dict[str, tuple[list[str], str]] = {
    "event trigger": (
        [g(gives="event_trigger", language="plpgsql", body="BEGIN END"),
         "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION g()"], "event trigger e"),
    "publication of all tables": (["CREATE PUBLICATION p FOR ALL TABLES"], "publication p FOR ALL TABLES"),
    "publication of a schema": (
        ["CREATE PUBLICATION p FOR TABLES IN SCHEMA public"], "publication p FOR TABLES IN SCHEMA"),
    "publication of another owner": (["CREATE PUBLICATION p"], "publication p (owned by postgres)"),
    "publication of a member": (
        ["CREATE PUBLICATION p", "ALTER PUBLICATION p OWNER TO fid_member"],
        "publication p (owned by fid_member, the database by fid_own)"),
    "extension": (["CREATE EXTENSION pg_stat_statements"], "extension pg_stat_statements (not trusted)"),
    "older extension": (
        ["CREATE EXTENSION hstore VERSION '1.4'"], "extension hstore (it is 1.4, a restored one would be 1.8)"),
    "rights of an extension": (
        ["CREATE EXTENSION pgcrypto", "REVOKE EXECUTE ON FUNCTION digest(text, text) FROM PUBLIC"],
        "function public.digest(text,text) (its rights were changed)"),
    "foreign-data wrapper": (["CREATE FOREIGN DATA WRAPPER w"], "foreign-data wrapper w"),
    "access method": (["CREATE ACCESS METHOD am TYPE TABLE HANDLER heap_tableam_handler"], "access method am"),
    "text search template": (
        ["CREATE TEXT SEARCH TEMPLATE tt (LEXIZE = dsimple_lexize)"], "text search template public.tt"),
    "text search parser": (
        ["CREATE TEXT SEARCH PARSER tp (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end,"
         " LEXTYPES = prsd_lextype)"], "text search parser public.tp"),
    "operator family": (["CREATE OPERATOR FAMILY f USING btree"], "operator family public.f for access method btree"),
    "operator class": (
        ["CREATE OPERATOR CLASS c FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,"
         " OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int, int)"],
        "operator class public.c for access method btree"),
    "base type": (
        ["CREATE TYPE b", "CREATE FUNCTION bin(cstring) RETURNS b LANGUAGE internal IMMUTABLE STRICT AS 'int4in'",
         "CREATE FUNCTION bout(b) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out'",
         "CREATE TYPE b (INPUT = bin, OUTPUT = bout, LIKE = int4)"], "type public.b (a base type)"),
    "internal function": (
        [g("int", language="internal", body="int4abs")], "function public.g(integer) (language internal)"),
    "leakproof function": ([g(more="IMMUTABLE LEAKPROOF")], "function public.g() (leakproof)"),
    "supported function": (
        [g("text, text", "bool", more="IMMUTABLE SUPPORT textlike_support", body="SELECT true")],
        "function public.g(text,text) (with a support function)"),
    "function with a superuser's setting": (
        [g(more="SET log_statement = 'all'")], "function public.g() (sets log_statement)"),
    "function with a setting of nobody": ([g(more="SET app.x = 1")], "function public.g() (sets app.x)"),
    "aggregate": (
        ["CREATE AGGREGATE ag (bigint) (SFUNC = int8_avg_accum, STYPE = internal, FINALFUNC = numeric_poly_avg)",
         "ALTER AGGREGATE ag (bigint) OWNER TO fid_own"], "function public.ag(bigint) (its state is internal)"),
    "cast": (["CREATE CAST (text AS int) WITH INOUT"], "cast from text to integer (between types of others)"),
    "binary cast": (["CREATE CAST (money AS bigint) WITHOUT FUNCTION"], "cast from money to bigint"),
    "table": ([TABLE, "ALTER TABLE t OWNER TO fid_other"], "table public.t (owned by fid_other)"),
    "view": (["CREATE VIEW v AS SELECT 1 AS a", "ALTER VIEW v OWNER TO fid_other"], "view public.v (owned by fid_other"),
    "sequence": (["CREATE SEQUENCE s"], "sequence public.s (owned by postgres)"),
    "function": (["CREATE FUNCTION h() RETURNS int LANGUAGE sql AS 'SELECT 1'"], "function public.h() (owned by postgres)"),
    "type": (["CREATE TYPE c AS (i int)"], "type public.c (owned by postgres)"),
    "range": (["CREATE TYPE r AS RANGE (SUBTYPE = int)"], "type public.r (owned by postgres)"),
    "schema": (["CREATE SCHEMA s"], "schema s (owned by postgres)"),
    "schema public": (["ALTER SCHEMA public OWNER TO postgres"], "schema public (owned by postgres)"),
    "collation": (['CREATE COLLATION co FROM "C"'], "collation public.co (owned by postgres)"),
    "conversion": (
        ["CREATE CONVERSION cv FOR 'UTF8' TO 'LATIN1' FROM utf8_to_iso8859_1"],
        "conversion public.cv (owned by postgres)"),
    "statistics": (
        [TABLE, "CREATE STATISTICS st ON id, x FROM t", "ALTER STATISTICS st OWNER TO fid_other"],
        "statistics object public.st (owned by fid_other)"),
    "operator": (
        [g("int, int", "bool", body="SELECT true"), "CREATE OPERATOR === (FUNCTION = g, LEFTARG = int, RIGHTARG = int)"],
        "operator public.===(integer,integer) (owned by postgres)"),
    "text search configuration": (
        ["CREATE TEXT SEARCH CONFIGURATION tc (COPY = english)"],
        "text search configuration public.tc (owned by postgres)"),
    "text search dictionary": (
        ["CREATE TEXT SEARCH DICTIONARY td (TEMPLATE = simple)"], "text search dictionary public.td (owned by postgres)"),
    "large object": (
        ["SELECT lo_create(4711)", "GRANT SELECT ON LARGE OBJECT 4711 TO fid_own"],
        "large object 4711 (owned by postgres)"),
    "table of a member who may not create there": (
        [TABLE, "GRANT CREATE ON SCHEMA public TO fid_member", "ALTER TABLE t OWNER TO fid_member"],
        "table public.t (owned by fid_member, schema public by pg_database_owner)"),
    "type of a member who may not create there": (
        [ENUM, "ALTER TYPE e OWNER TO fid_member"],
        "type public.e (owned by fid_member, schema public by pg_database_owner)"),
    "what we become and do not inherit": (
        ["CREATE SCHEMA s AUTHORIZATION fid_noinherit", "CREATE TABLE s.t ()", "ALTER TABLE s.t OWNER TO fid_noinherit"],
        "table s.t (owned by fid_noinherit)"),
    "rights from another one on a table": ([TABLE, *granted_on("t")], "table public.t (rights granted by fid_third)"),
    "rights from a member": (
        [TABLE, "@fid_own GRANT SELECT ON t TO fid_member WITH GRANT OPTION",
         "@fid_member GRANT SELECT ON t TO fid_other"], "table public.t (rights granted by fid_member)"),
    "rights from another one on a column": (
        [TABLE, *granted_on("t", right="SELECT (id)")], "column id of table public.t (rights granted by fid_third)"),
    "rights from another one on a function": (
        [g(), *granted_on("g()", "FUNCTION")], "function public.g() (rights granted by fid_third)"),
    "rights from another one on a schema": (
        ["@fid_own CREATE SCHEMA s", *granted_on("s", "SCHEMA")], "schema s (rights granted by fid_third)"),
    "rights from another one on a type": (
        [ENUM, *granted_on("e", "TYPE")], "type public.e (rights granted by fid_third)"),
    "rights on a function of the system": (
        ["GRANT EXECUTE ON FUNCTION pg_read_file(text) TO fid_other"],
        "function pg_read_file(text) (its rights were changed)"),
    "a right less on a function of the system": (
        ["REVOKE EXECUTE ON FUNCTION pg_sleep(float8) FROM PUBLIC"],
        "function pg_sleep(double precision) (its rights were changed)"),
    "rights on a table of the system": (
        ["GRANT SELECT ON pg_authid TO fid_other"], "table pg_authid (its rights were changed)"),
    "rights on a column of the system": (
        ["GRANT SELECT (rolname) ON pg_authid TO fid_other"],
        "column rolname of table pg_authid (its rights were changed)"),
    "rights on a language": (
        ["REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC"], "language plpgsql (its rights were changed)"),
    "rights on a type of the system": (
        ["REVOKE USAGE ON TYPE int4 FROM PUBLIC"], "type integer (its rights were changed)"),
    "rights on the system's schema": (
        ["GRANT CREATE ON SCHEMA pg_catalog TO fid_other"], "schema pg_catalog (its rights were changed)"),
    "default privileges": (
        ["ALTER DEFAULT PRIVILEGES FOR ROLE fid_other GRANT SELECT ON TABLES TO fid_own"],
        "default privileges on new relations belonging to role fid_other"),
    "default privileges in a schema": (
        ["ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO fid_own"],
        "default privileges on new relations belonging to role postgres in schema public"),
    "tablespace of a table": (
        [TABLE, "ALTER TABLE t SET TABLESPACE fid_space"], "tablespace fid_space (no right to create in it)"),
    "tablespace of an index": (
        [TABLE, "CREATE INDEX ON t (x) TABLESPACE fid_space"], "tablespace fid_space (no right to create in it)"),
    "superuser's setting of the database": (
        [f"ALTER DATABASE {SOURCE} SET log_statement = 'all'"], f"database {SOURCE} (sets log_statement)"),
    "nobody's setting of the database": (
        [f"ALTER DATABASE {SOURCE} SET app.x = '1'"], f"database {SOURCE} (sets app.x)"),
    "setting of a role in the database": (
        [f"ALTER ROLE fid_other IN DATABASE {SOURCE} SET work_mem = '8MB'"],
        f"database {SOURCE} (has settings of role fid_other)"),
    "rights on the database": (
        granted_on(SOURCE, "DATABASE", "CREATE"), f"database {SOURCE} (rights granted by fid_third)"),
}  # fmt: skip

# A few of every kind are looked at in each run of the tests, all of them by `make test-long`.
SAMPLE = (
    "event trigger", "publication of all tables", "extension", "older extension", "table of a member who may not create there",
    "rights from another one on a table", "superuser's setting of the database",
)  # fmt: skip

CLEAN = [
    TABLE,
    "@fid_own INSERT INTO t VALUES (1, 'a')",
    "@fid_own CREATE PUBLICATION p FOR TABLE t",
    "CREATE EXTENSION pgcrypto",
    "@fid_own CREATE SCHEMA ext",
    "@fid_own CREATE EXTENSION hstore SCHEMA ext",
    "COMMENT ON EXTENSION hstore IS 'mine'",
    "COMMENT ON EXTENSION plpgsql IS 'mine'",
    "CREATE SCHEMA m AUTHORIZATION fid_member",
    "CREATE TABLE m.t (i int PRIMARY KEY)",
    "ALTER TABLE m.t OWNER TO fid_member",
    "GRANT ALL ON SCHEMA m TO fid_own",
    "@fid_own CREATE TABLE m.u (i int REFERENCES m.t)",
    "CREATE SCHEMA n AUTHORIZATION fid_noinherit",
    "@fid_own CREATE FUNCTION g(int, int) RETURNS bool LANGUAGE sql SET work_mem = '8MB' AS 'SELECT true'",
    "@fid_own CREATE OPERATOR === (FUNCTION = g, LEFTARG = int, RIGHTARG = int)",
    "@fid_own CREATE TEXT SEARCH CONFIGURATION tc (COPY = english)",
    "@fid_own CREATE TEXT SEARCH DICTIONARY td (TEMPLATE = simple)",
    "@fid_own CREATE CONVERSION cv FOR 'UTF8' TO 'LATIN1' FROM utf8_to_iso8859_1",
    "@fid_own CREATE AGGREGATE ag (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0')",
    ENUM,
    "@fid_own CREATE FUNCTION to_e(int) RETURNS e LANGUAGE sql AS $$SELECT 'a'::public.e$$",
    "@fid_own CREATE CAST (int AS e) WITH FUNCTION to_e(int)",
    "@fid_own CREATE CAST (text AS e) WITH INOUT",
    "@fid_own ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO fid_other",
    "ALTER DEFAULT PRIVILEGES FOR ROLE fid_member IN SCHEMA public GRANT SELECT ON TABLES TO fid_other",
    "@fid_own GRANT SELECT ON t TO fid_other WITH GRANT OPTION",
    "GRANT SELECT (x) ON t TO fid_third",
    "@fid_own GRANT CREATE ON SCHEMA public TO fid_other",
    "@fid_own REVOKE USAGE ON SCHEMA public FROM PUBLIC",
    "@fid_own COMMENT ON SCHEMA public IS 'mine'",
    "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO fid_other",
    "REVOKE EXECUTE ON FUNCTION pg_read_file(text) FROM fid_other",
    "SELECT lo_create(4711)",
    "ALTER LARGE OBJECT 4711 OWNER TO fid_member",
    "GRANT CREATE ON TABLESPACE fid_space_of_own TO fid_own",
    "@fid_own CREATE TABLE spaced (i int) TABLESPACE fid_space_of_own",
    "@fid_own CREATE MATERIALIZED VIEW mv AS SELECT * FROM t",
    "@fid_own CREATE TYPE r AS RANGE (SUBTYPE = int)",
    "@fid_own CREATE DOMAIN d AS int CHECK (VALUE > 0)",
    "ALTER TABLE m.u DISABLE TRIGGER ALL",
    f"ALTER DATABASE {SOURCE} SET work_mem = '9MB'",
    f"ALTER ROLE fid_own IN DATABASE {SOURCE} SET work_mem = '8MB'",
    f"GRANT CREATE ON DATABASE {SOURCE} TO fid_other",
]


class Ground:
    """A database of a role that is no superuser: read by it, backed up by it, restored by it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder

    def connect(self, name: str, user: str = "fid_own") -> psycopg.Connection:
        return self.cluster.connect(name, user=user)

    def prepare(self, statements: list[str], owner: str = "fid_own") -> None:
        with self.cluster.connect() as admin:
            admin.execute(f"CREATE DATABASE {SOURCE} OWNER {owner} TEMPLATE template0")
        with self.cluster.connect(SOURCE) as session:
            for statement in statements:
                role, _, text = statement.partition(" ") if statement[0] == "@" else ("@postgres", "", statement)
                session.execute(f"SET ROLE {role[1:]}; {text}; RESET ROLE")

    def predicted(self, user: str = "fid_own") -> list[str]:
        with self.connect(SOURCE, user) as session:
            role, superuser, found = fidelity.read(session)
        assert (role, superuser) == (user, user == "postgres")
        return found

    def real(self, user: str = "fid_own") -> str:
        """Why a backup cannot be taken or restored; "" when the restored one is equal."""
        try:
            with self.connect(SOURCE, user) as session:
                told = dump.take_backup(session, self.folder, "local", RUN, "alice", HOW).manifest
            with self.connect("postgres", user) as admin:
                tools = find_tools(BIN, admin.info.server_version)
                file = self.folder / f"local-{RUN}.dump"
                done = restore.restore_backup(admin, lambda name: self.connect(name, user), tools, file, told, COPY)
        except BackupError as error:
            return str(error)
        return "; ".join(done.differences)


@pytest.fixture(scope="module", params=["own", pytest.param("15", marks=pytest.mark.matrix)])
def server(request, cluster):
    own = contextlib.nullcontext((cluster, None))
    with servers.running(15) if request.param == "15" else own as (running, _):
        with running.connect() as admin:
            newer = admin.info.server_version >= 160000
            admin.execute("SET allow_in_place_tablespaces = on")
            for role in ROLES:
                admin.execute(f"CREATE ROLE {role} {'LOGIN CREATEDB' if role == 'fid_own' else ''}")
            for space in ("fid_space", "fid_space_of_own"):
                admin.execute(f"CREATE TABLESPACE {space} LOCATION ''")
            admin.execute("GRANT fid_member TO fid_own")
            if newer:
                admin.execute("GRANT fid_noinherit TO fid_own WITH INHERIT FALSE, SET TRUE")
        yield running
        with running.connect() as admin:
            admin.execute("DROP TABLESPACE fid_space")
            admin.execute("DROP TABLESPACE fid_space_of_own")
            admin.execute(f"DROP ROLE {', '.join(ROLES)}")


@pytest.fixture
def ground(server, tmp_path):
    yield Ground(server, tmp_path / "backups")
    with server.connect() as admin:
        for name in (SOURCE, COPY):
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


EACH = pytest.mark.parametrize(
    "name", [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.matrix) for name in FAILS]
)


@EACH
def test_what_is_named_beforehand_cannot_be_restored(ground, name):
    statements, expected = FAILS[name]
    ground.prepare(statements)
    found = ground.predicted()
    assert any(one.startswith(expected) for one in found), found
    assert ground.real()


@EACH
def test_a_superuser_can_restore_all_of_it(ground, name):
    """But an extension, which is created in the version that the server has."""
    ground.prepare(FAILS[name][0])
    assert bool(ground.predicted("postgres")) == (name == "older extension")
    assert bool(ground.real("postgres")) == (name == "older extension")


@pytest.mark.parametrize("owner", ["fid_own", pytest.param("fid_member", marks=pytest.mark.long)])
def test_where_nothing_is_named_all_of_it_is_restored(ground, owner):
    newer = ground.cluster.connect().info.server_version >= 160000
    ground.prepare([one for one in CLEAN if newer or "fid_noinherit" not in one], owner)
    assert ground.predicted() == []
    assert ground.real() == ""


def test_a_function_of_the_database_does_not_stand_in_for_the_systems(ground):
    trap = "CREATE FUNCTION public.pg_has_role(oid, text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$!$$; END'"
    ground.prepare([trap, f"ALTER DATABASE {SOURCE} SET search_path = public, pg_catalog"])
    assert ground.predicted() == ["function public.pg_has_role(oid,text) (owned by postgres)"]


def test_the_answer_comes_in_one_transaction_and_leaves_the_session_as_it_was(ground):
    ground.prepare([TABLE])
    with ground.connect(SOURCE) as session:
        fidelity.read(session)
        assert session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert session.execute("SHOW search_path").fetchone() == ('"$user", public',)
