"""What others owned goes to the role that migrates: every kind of object, and nothing that must not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.integration.schema_of_everything import FIXTURE
from tests.integration.two_roles import (  # noqa: F401 - fixtures among them
    APP,
    APP_PASSWORD,
    NOTHING,
    OWNER,
    OWNER_PASSWORD,
    admin,
    done,
    ensure,
    made,
    module,
    refused,
    server,
)
from tests.waiting import wait_for

# ruff: noqa: F811


def everything_of(connection: psycopg.Connection, owner: str) -> list[tuple[str, str]]:
    """What a role owns that is neither PostgreSQL's nor an extension's, by the server's own bookkeeping."""
    return connection.execute(
        """SELECT i.type, i.identity FROM pg_shdepend s, pg_identify_object(s.classid, s.objid, s.objsubid) i
           WHERE s.deptype = 'o' AND s.refobjid = %s::regrole
             AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = s.classid AND d.objid = s.objid AND d.deptype = 'e')
           ORDER BY 1, 2""",
        [owner],
    ).fetchall()


@pytest.fixture
def everything(server, admin) -> Iterator[str]:
    """A database in which role ``single`` owns one object of every kind, and what only a superuser may own."""
    admin.execute("CREATE ROLE single SUPERUSER LOGIN; CREATE ROLE catalog_owner; CREATE ROLE catalog_reader")
    admin.execute("CREATE DATABASE habitat OWNER single TEMPLATE template0")
    with server.connect("habitat") as session:
        session.execute("SET SESSION AUTHORIZATION single")
        session.execute(FIXTURE)
        session.execute(
            "SELECT lo_create(0), lo_create(77); CREATE PUBLICATION one; CREATE PUBLICATION all_of_it FOR ALL TABLES"
        )
        session.execute("CREATE TRUSTED LANGUAGE own HANDLER plpgsql_call_handler")
        session.execute("CREATE SEQUENCE lonely; CREATE TABLE s (id serial); CREATE TYPE pair AS (a int, b int)")
    yield "habitat"


def test_every_kind_of_object_goes_to_the_owner(server, admin, ensure, everything):
    with server.connect(everything) as session:
        before = everything_of(session, "single")
        result = ensure()
        assert not result.get("failed"), result["msg"]
        left, owned = everything_of(session, "single"), everything_of(session, OWNER)
    stay = {"event trigger", "foreign-data wrapper", "publication", "extension"}
    if admin.info.server_version < 170000:
        # Older servers leave the type that comes with a range to whoever made it; it still goes when the range goes.
        left.remove(("type", "public.span_multirange"))
    assert {kind for kind, _ in left} == stay
    assert {identity for kind, identity in left if kind == "publication"} == {"all_of_it", "wide"}
    moved = set(before) - set(left) - {("type", "public.span_multirange")}
    assert set(owned) - {("type", "public.span_multirange")} == moved
    assert len({kind for kind, _ in moved}) >= 17, {kind for kind, _ in moved}
    assert "database habitat to h_owner" in result["altered"]
    (superusers,) = [note for note in result["notes"] if "only a superuser" in note]
    assert "event trigger watching" in superusers
    second = ensure()
    assert (second["changed"], done(second)) == (False, NOTHING)


def test_what_the_first_superuser_owns_goes_too_although_reassign_owned_refuses_it(server, admin, ensure):
    made(admin, "CREATE DATABASE habitat TEMPLATE template0", "CREATE ROLE catalog_owner; CREATE ROLE catalog_reader")
    with server.connect("habitat") as session:
        session.execute(FIXTURE)
        session.execute("ALTER SCHEMA public OWNER TO postgres; GRANT CREATE ON SCHEMA public TO PUBLIC")
        with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="required by the database system"):
            session.execute("REASSIGN OWNED BY postgres TO catalog_owner")
        result = ensure()
        assert not result.get("failed"), result["msg"]
        assert "schema public to pg_database_owner" in result["altered"]
        assert "CREATE in public no longer to PUBLIC" in result["granted"]
        kinds = {kind for kind, _ in everything_of(session, OWNER)}
        assert {"table", "view", "materialized view", "function", "aggregate", "procedure", "type", "schema"} <= kinds
        extensions = "SELECT DISTINCT extowner::regrole::text FROM pg_extension"
        assert session.execute(extensions).fetchall() == [("postgres",)]
    assert ensure()["changed"] is False
    with server.login(OWNER, OWNER_PASSWORD, "habitat") as owner:
        owner.execute("ALTER TABLE members ADD COLUMN more integer; DROP VIEW names; CREATE TABLE public.fresh ()")


def test_what_the_first_superuser_owns_goes_also_when_another_one_is_connected(server, admin, ensure):
    made(admin, "CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'x'", "CREATE DATABASE habitat OWNER boss")
    with server.connect("habitat") as session:
        session.execute("CREATE TABLE t ()")
    result = ensure(user="boss")
    assert result["altered"] == ["database habitat to h_owner", "table public.t to h_owner"]


def nobody_left(admin) -> None:
    """The server notices a moment later that a session was closed."""
    there = """SELECT FROM pg_stat_activity WHERE datname = 'habitat' AND backend_type = 'client backend'
               AND application_name NOT LIKE 'runbook%'"""
    wait_for(lambda: not admin.execute(there).fetchall())


def test_objects_of_others_stay_and_are_named(server, admin, ensure):
    made(admin, "CREATE ROLE other LOGIN", "CREATE DATABASE habitat", "GRANT CREATE ON DATABASE habitat TO other")
    with server.connect("habitat") as session:
        session.execute("SET SESSION AUTHORIZATION other; CREATE SCHEMA theirs; CREATE TABLE theirs.t ()")
    nobody_left(admin)
    (note,) = ensure()["notes"]
    assert note == "schema theirs, table theirs.t: belongs to other and stays so; migrations cannot change it"


def test_default_privileges_go_on_for_the_owner(server, admin, ensure):
    made(admin, f"CREATE ROLE {APP}", "CREATE DATABASE habitat")
    with server.connect("habitat") as session:
        session.execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {APP}")
        session.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    result = ensure()
    assert not result.get("failed"), result["msg"]
    with server.login(OWNER, OWNER_PASSWORD, "habitat") as owner:
        owner.execute("CREATE TABLE public.t AS SELECT 1 AS a; CREATE FUNCTION public.f() RETURNS int RETURN 1")
    with server.login(APP, APP_PASSWORD, "habitat") as app:
        assert app.execute("SELECT a FROM public.t").fetchall() == [(1,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("SELECT public.f()")
    assert ensure()["changed"] is False


def test_nothing_is_taken_over_that_must_not_be_and_the_screen_says_so(server, admin, ensure):
    admin.execute("CREATE DATABASE habitat")
    with server.connect("habitat") as session:
        session.execute("CREATE TABLE t ()")
    result = ensure(take_over=False)
    assert result["altered"] == []
    assert f"CONNECT on habitat to {OWNER}" in result["granted"]
    assert "database habitat belongs to postgres, 1 object to others than h_owner" in result["notes"][0]
    assert ensure(take_over=False)["changed"] is False


def test_habitats_own_migrations_run_as_the_owner_of_a_database_that_was_one_roles(server, admin, ensure):
    made(admin, "CREATE DATABASE habitat", "CREATE ROLE habitat_app")
    folder = Path(__file__).parents[2] / "schema"
    up = [path.read_text().split("-- Down migration")[0] for path in sorted(folder.glob("0[1-5]*.sql"))]
    with server.connect("habitat") as session:
        for text in up:
            session.execute(text)
    result = ensure(writer_roles=["habitat_app"], writer_passwords={"habitat_app": APP_PASSWORD})
    assert any("refresh_contribution_totals" in note and "SECURITY DEFINER" in note for note in result["notes"])
    with server.login(OWNER, OWNER_PASSWORD, "habitat") as owner:
        owner.execute((folder / "06_security.sql").read_text().split("-- Verify")[0])
    with server.login("habitat_app", APP_PASSWORD, "habitat") as app:
        assert app.execute("SELECT count(*) FROM members").fetchone() == (0,)
        assert app.execute("SELECT refresh_contribution_totals(NULL, 10)").fetchone() == (None,)


def test_objects_are_not_taken_from_under_an_application_at_work(server, admin, ensure):
    made(admin, "CREATE ROLE single LOGIN PASSWORD 'x'", "CREATE DATABASE habitat OWNER single")
    with server.login("single", "x", "habitat") as app:
        app.execute("CREATE TABLE public.t ()")
        assert refused(ensure()) == (
            "single has 1 session in habitat and would lose its rights on what goes to h_owner; "
            "stop the services and run this again, or set habitat_bootstrap_take_over: false"
        )
        assert admin.execute("SELECT count(*) FROM pg_roles WHERE rolname = %s", [OWNER]).fetchone() == (0,)
    nobody_left(admin)
    assert "table public.t to h_owner" in ensure()["altered"]


def test_a_lock_of_somebody_else_is_not_waited_for_without_end(server, admin, module):
    admin.execute("CREATE DATABASE habitat")
    with server.connect("habitat") as session:
        session.execute("CREATE TABLE a (); CREATE TABLE b ()")
        with session.transaction():
            session.execute("LOCK TABLE b IN ACCESS SHARE MODE")
            message = refused(module(lock_timeout="200ms"))
        owners = "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname IN ('a', 'b')"
        assert session.execute(owners).fetchall() == [("postgres",)]
    assert "ALTER TABLE public.b OWNER TO" in message
    assert module()["changed"] is True
