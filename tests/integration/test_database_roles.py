"""The two roles of a database: made once, with what each needs and nothing beyond; tried by logging in as them."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import lock_session, scram

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

# ruff: noqa: F811


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
