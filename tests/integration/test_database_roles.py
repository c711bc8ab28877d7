"""The two roles of a database: made once, with what each needs and nothing beyond; tried by logging in as them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import lock_session, roles, scram
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted

from demo.embedded import postgres
from tests.conftest import Cluster
from tests.integration.schema_of_everything import FIXTURE
from tests.waiting import wait_for

MODULE = "ansible_collections.habitat.runbook.plugins.modules.database_roles"
RUN = "20261122t100221z-k3f"
OWNER, APP = "h_owner", "h_app"
OWNER_PASSWORD, APP_PASSWORD = "0wner'\\ pässword", "4pp $ecret ℌ"


class Server(Cluster):
    """A server of these tests' own: its roles are nobody else's, and all but the superuser need a password."""

    def login(self, user: str, password: str, database: str, **more: Any) -> psycopg.Connection:
        return self.connect(database, user=user, password=password, **more)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="habitat-pg-"))
    postgres.init_cluster(folder / "data", "postgres")
    rules = "local all postgres trust\nlocal all all scram-sha-256\n"
    (folder / "data/pg_hba.conf").write_text(rules)
    settings = ["listen_addresses=", "fsync=off", "log_statement=all", "max_connections=60"]
    options = [word for setting in settings for word in ("-c", setting)]
    command = postgres.server_command("postgres", "-D", str(folder / "data"), "-k", str(folder), *options)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    running = Server(folder, 5432, process.pid)
    wait_for(running.answers)
    yield running
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    shutil.rmtree(folder)


@pytest.fixture
def admin(server) -> Iterator[psycopg.Connection]:
    """A superuser's session; afterwards the database and every role but the superuser are gone."""
    with server.connect() as session:
        yield session
        for (name,) in session.execute("SELECT datname FROM pg_database WHERE datname ~ '^habitat'").fetchall():
            session.execute(f"DROP DATABASE {quoted(name)} WITH (FORCE)")
        for (name,) in session.execute("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND oid <> 10").fetchall():
            session.execute(f"DROP OWNED BY {quoted(name)}; DROP ROLE {quoted(name)}")


def made(session: psycopg.Connection, *statements: str) -> None:
    """Run statements one by one: CREATE DATABASE stands in no transaction."""
    for statement in statements:
        session.execute(statement)


def given(server: Server, **options: Any) -> dict[str, Any]:
    """The module's options."""
    usual = {
        "login_db": "habitat",
        "login_unix_socket": str(server.folder),
        "env": "local",
        "run_id": RUN,
        "owner": OWNER,
        "owner_password": OWNER_PASSWORD,
        "writer_roles": [APP],
        "writer_passwords": {APP: APP_PASSWORD},
    }
    return {**usual, **options}


@pytest.fixture
def ensure(server, admin):
    """What the module does, in this process, which takes a tenth of the time."""

    def run(check: bool = False, user: str = "postgres", **options: Any) -> dict[str, Any]:
        asked = {"take_over": True, "grant_app": False, **given(server, **options)}
        wish = roles.Wish(
            database=asked["login_db"],
            owner=asked["owner"],
            writers=asked["writer_roles"],
            passwords={asked["owner"]: asked["owner_password"], **asked["writer_passwords"]},
            take_over=asked["take_over"],
            grant_app=asked["grant_app"],
        )
        session = {"user": user, "password": "x", "application_name": f"runbook/{RUN}"}
        try:
            with server.connect(**session) as ours:
                outcome = roles.ensure(ours, lambda name: server.connect(name, **session), wish, check)
        except roles.RolesError as error:
            return {"failed": True, "msg": str(error)}
        return {"changed": bool(outcome.steps), **outcome.as_data()}

    return run


@pytest.fixture
def module(server, admin):
    """The module as Ansible runs it; called with options that are not the usual ones it returns its result."""

    def run(check: bool = False, **options: Any) -> dict[str, Any]:
        arguments = given(server, **options)
        ours = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        done = subprocess.run(
            [sys.executable, "-m", MODULE],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": {**arguments, "_ansible_check_mode": check}}),
            text=True,
            capture_output=True,
            env={**ours, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
        assert done.stderr == ""
        assert not {secret for secret in (OWNER_PASSWORD, APP_PASSWORD, "SCRAM-SHA-256$") if secret in done.stdout}
        result = json.loads(done.stdout)
        assert not (check and result.get("failed")), result
        return result

    return run


def refused(result: dict[str, Any]) -> str:
    assert result.get("failed") is True, result
    assert "Traceback" not in json.dumps(result)
    return result["msg"]


def done(result: dict[str, Any]) -> dict[str, list[str]]:
    assert not result.get("failed"), result["msg"]
    return {kind: result[kind] for kind in ("created", "altered", "granted")}


NOTHING: dict[str, list[str]] = {"created": [], "altered": [], "granted": []}


def test_from_nothing_to_two_roles_that_log_in_and_then_nothing_more(server, admin, module):
    first = module()
    assert first["changed"] is True
    assert done(first) == {
        "created": [f"role {OWNER}", f"role {APP}", "database habitat"],
        "altered": [],
        "granted": [
            f"pg_read_all_stats to {OWNER}",
            f"pg_signal_backend to {OWNER}",
            f"CONNECT on habitat to {APP}",
            "CONNECT on habitat no longer to PUBLIC",
        ],
    }
    assert first["notes"] == []
    for user, password in ((OWNER, OWNER_PASSWORD), (APP, APP_PASSWORD)):
        server.login(user, password, "habitat").close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            server.login(user, password + "x", "habitat")
    again = module()
    assert (again["changed"], done(again), again["statements"]) == (False, NOTHING, [])
    assert again["diff"] == {"prepared": ""}


def test_check_mode_predicts_exactly_and_changes_nothing(admin, ensure):
    everything = (
        "SELECT array_agg(r::text ORDER BY rolname) FROM pg_authid r "
        "UNION ALL SELECT array_agg(d::text ORDER BY datname) FROM pg_database d"
    )
    before = admin.execute(everything).fetchall()
    predicted = ensure(check=True, grant_app=True)
    assert admin.execute(everything).fetchall() == before
    really = ensure(grant_app=True)
    assert done(predicted) == done(really)
    assert predicted["statements"] == really["statements"]
    assert predicted["changed"] is really["changed"] is True
    assert ensure(check=True, grant_app=True)["changed"] is False


def test_the_diff_shows_the_statements_without_secrets(admin, module):
    prepared = module(check=True)["diff"]["prepared"].splitlines()
    assert prepared[0] == f"CREATE ROLE \"{OWNER}\" LOGIN CREATEDB INHERIT PASSWORD '********';"
    assert 'CREATE DATABASE "habitat" OWNER "h_owner";' in prepared


def test_a_changed_password_is_the_only_thing_that_changes(server, admin, ensure):
    ensure()
    result = ensure(writer_passwords={APP: "another"})
    assert done(result) == {**NOTHING, "altered": [f"role {APP}: password"]}
    server.login(APP, "another", "habitat").close()
    server.login(OWNER, OWNER_PASSWORD, "habitat").close()
    assert ensure(writer_passwords={APP: "another"})["changed"] is False
    assert ensure(writer_passwords={}, owner_password="")["changed"] is False


def test_a_password_kept_in_another_form_is_made_a_verifier(server, admin, ensure):
    admin.execute(f"SET password_encryption = 'md5'; CREATE ROLE {APP} LOGIN PASSWORD 'x'; RESET password_encryption")
    assert f"role {APP}: password" in ensure()["altered"]
    server.login(APP, APP_PASSWORD, "habitat").close()


def test_a_role_that_migrations_made_without_login_gets_one(server, admin, ensure):
    admin.execute(f"CREATE ROLE {APP} NOLOGIN; CREATE ROLE {OWNER} NOINHERIT")
    assert ensure()["altered"] == [f"role {OWNER}: LOGIN, CREATEDB, INHERIT, password", f"role {APP}: LOGIN, password"]
    server.login(APP, APP_PASSWORD, "habitat").close()
    assert ensure()["changed"] is False


def test_verifiers_are_recognized_as_the_server_makes_them(admin):
    for password in (
        "plain",
        "ünï 𝔠öde",
        "a\u00a0b\u00adc",
        "a\u1680b",
        "a\u200bb",
        "ﬁ",
        "\u0627\u0031",
        "\u0627b",
        "\u0221",
        "\u00ad",
        "\x07",
    ):
        verifier = admin.pgconn.encrypt_password(password.encode(), b"x", b"scram-sha-256").decode()
        assert scram.is_of(verifier, password), password
        assert not scram.is_of(verifier, password + "."), password
    assert not scram.is_of(None, "plain")
    assert not scram.is_of("md5" + "0" * 32, "plain")


def test_no_password_is_in_the_log_or_in_an_argument_list(server, admin, module):
    before = server.log.stat().st_size
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert module()["changed"]
        assert module(writer_passwords={APP: APP_PASSWORD + "2"})["changed"]
    finally:
        over.set()
        watcher.join()
    log = server.log.read_bytes()[before:].decode(errors="replace")
    assert "CREATE ROLE" in log
    assert any("database_roles" in one for one in seen)
    for text in (log, *seen):
        assert "pässword" not in text
        assert "ecret ℌ" not in text


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


def test_objects_of_others_stay_and_are_named(server, admin, ensure):
    made(admin, "CREATE ROLE other LOGIN", "CREATE DATABASE habitat", "GRANT CREATE ON DATABASE habitat TO other")
    with server.connect("habitat") as session:
        session.execute("SET SESSION AUTHORIZATION other; CREATE SCHEMA theirs; CREATE TABLE theirs.t ()")
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


def test_the_application_reads_and_writes_and_changes_nothing_else(server, admin, ensure):
    admin.execute("CREATE DATABASE habitat")
    with server.connect("habitat") as session:
        session.execute("CREATE TABLE t (id serial, a int); CREATE TABLE schema_migrations (version text)")
        session.execute("CREATE VIEW v AS SELECT * FROM t; CREATE MATERIALIZED VIEW m AS SELECT * FROM t")
    result = ensure(grant_app=True)
    assert f"SELECT, INSERT, UPDATE, DELETE on 2 tables to {APP}" in result["granted"]
    with server.login(OWNER, OWNER_PASSWORD, "habitat") as owner:
        owner.execute("CREATE TABLE public.later (id serial, a int)")
    with server.login(APP, APP_PASSWORD, "habitat") as app:
        for table in ("t", "later"):
            app.execute(f"INSERT INTO {table} (a) VALUES (1); UPDATE {table} SET a = 2; SELECT * FROM {table}")
        app.execute("SELECT * FROM v; SELECT * FROM m; DELETE FROM t")
        for forbidden in (
            "ALTER TABLE t ADD b int",
            "DROP TABLE t",
            "TRUNCATE t",
            "CREATE TABLE public.own ()",
            "SELECT * FROM schema_migrations",
            "CREATE DATABASE habitat_mine",
            f"SET ROLE {OWNER}",
            "ALTER DATABASE habitat SET work_mem = '1MB'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(forbidden)
    assert ensure(grant_app=True)["changed"] is False


def test_the_owner_can_do_what_a_run_does(server, admin, ensure):
    ensure()
    with server.login(APP, APP_PASSWORD, "habitat") as app, server.login(OWNER, OWNER_PASSWORD, "postgres") as owner:
        app.execute("SELECT 1")
        see = "SELECT pid FROM pg_stat_activity WHERE usename = %s AND query = 'SELECT 1'"
        ((pid,),) = owner.execute(see, [APP]).fetchall()
        owner.execute("REVOKE CONNECT ON DATABASE habitat FROM h_app")
        assert owner.execute("SELECT pg_terminate_backend(%s, 15000)", [pid]).fetchone() == (True,)
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            server.login(APP, APP_PASSWORD, "habitat")
        owner.execute("CREATE DATABASE habitat_point TEMPLATE habitat")
        owner.execute("ALTER DATABASE habitat RENAME TO habitat_before")
        made(owner, "ALTER DATABASE habitat_point RENAME TO habitat", "DROP DATABASE habitat_before")
        owner.execute("GRANT CONNECT ON DATABASE habitat TO h_app")
    server.login(APP, APP_PASSWORD, "habitat").close()


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


def test_whoever_is_connected_and_cannot_come_back_is_named(server, admin, ensure):
    made(
        admin, "CREATE ROLE report LOGIN PASSWORD 'x'; CREATE ROLE named LOGIN PASSWORD 'x'", "CREATE DATABASE habitat"
    )
    admin.execute("GRANT CONNECT ON DATABASE habitat TO named")
    with server.login("report", "x", "habitat"), server.login("named", "x", "habitat"):
        (note,) = ensure()["notes"]
        assert note.startswith("role report has 1 session in habitat and may not connect to it any more")
        assert 'GRANT CONNECT ON DATABASE "habitat" TO "report"' in note
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        server.login("report", "x", "habitat")
    server.login("named", "x", "habitat").close()
    admin.execute("GRANT CONNECT ON DATABASE habitat TO report")
    assert ensure()["changed"] is False
    server.login("report", "x", "habitat").close()


def test_an_application_that_is_still_a_superuser_is_named(server, admin, ensure):
    ensure()
    with server.connect("habitat", application_name="habitat-api"):
        (note,) = ensure()["notes"]
    assert note.startswith("superuser postgres has 1 session in habitat (habitat-api): no right can keep it out")


def test_objects_are_not_taken_from_under_an_application_at_work(server, admin, ensure):
    made(admin, "CREATE ROLE single LOGIN PASSWORD 'x'", "CREATE DATABASE habitat OWNER single")
    with server.login("single", "x", "habitat") as app:
        app.execute("CREATE TABLE public.t ()")
        assert refused(ensure()) == (
            "single has 1 session in habitat and would lose its rights on what goes to h_owner; "
            "stop the services and run this again, or set habitat_bootstrap_take_over: false"
        )
        assert admin.execute("SELECT count(*) FROM pg_roles WHERE rolname = %s", [OWNER]).fetchone() == (0,)
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


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (f"CREATE ROLE {APP} SUPERUSER", "is a superuser"),
        (f"CREATE ROLE {APP} BYPASSRLS", "may pass by row-level security"),
        (f"CREATE ROLE {APP} CREATEROLE", "may make roles"),
        (f"CREATE ROLE {OWNER}; CREATE ROLE {APP} IN ROLE {OWNER}", f"is a member of the owner {OWNER}"),
        (
            f"CREATE ROLE {OWNER}; CREATE ROLE g IN ROLE {OWNER}; CREATE ROLE {APP} IN ROLE g",
            "is a member of the owner",
        ),
    ],
)
def test_an_application_that_could_change_the_schema_is_refused(admin, ensure, before, words):
    admin.execute(before)
    known = admin.execute("SELECT * FROM pg_authid ORDER BY oid").fetchall()
    assert words in refused(ensure())
    assert admin.execute("SELECT * FROM pg_authid ORDER BY oid").fetchall() == known


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"writer_roles": [OWNER], "writer_passwords": {}}, "is both the owner and the application's role"),
        ({"writer_passwords": {"h_ap": "x"}}, "there is a password for h_ap, which is neither"),
        ({"owner": "pg_mine"}, "'pg_mine' cannot be the name of a role"),
        ({"owner": "x" * 64}, "cannot be the name"),
        ({"login_user": "plain"}, "plain is no superuser"),
        ({"login_unix_socket": "/nowhere"}, "cannot connect to database postgres at"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(server, admin, module, options, words):
    admin.execute("CREATE ROLE plain LOGIN PASSWORD 'x'")
    assert words in refused(module(**{"login_password": "x", **options}))
    assert admin.execute("SELECT count(*) FROM pg_roles WHERE rolname IN (%s, %s)", [OWNER, APP]).fetchone() == (0,)


def test_names_that_need_quoting_are_quoted(server, admin, module):
    owner, app = 'o"wner; --', "a'pp %s"
    options = {"owner": owner, "writer_roles": [app], "writer_passwords": {app: "x"}, "login_db": 'habitat "x" %s'}
    assert module(**options, grant_app=True)["changed"] is True
    server.login(app, "x", 'habitat "x" %s').close()
    assert module(**options, grant_app=True)["changed"] is False


def test_nothing_happens_while_a_run_holds_the_database(admin, ensure):
    admin.execute("SELECT pg_advisory_lock(%s, %s)", [lock_session.LOCK_CLASS, lock_session.lock_key("habitat")])
    admin.execute("SET application_name = 'runbook-lock/20261122t100211z-abc'")
    assert refused(ensure()) == "run 20261122t100211z-abc holds habitat; wait for its end"
    assert admin.execute("SELECT count(*) FROM pg_roles WHERE rolname = %s", [OWNER]).fetchone() == (0,)
