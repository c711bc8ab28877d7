"""The fence: who may connect while a database is being changed, and that everybody gets back what they had."""

from __future__ import annotations

import threading

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import (
    fence,
)
from ansible_collections.habitat.runbook.plugins.module_utils.fence_record import FENCE, open_fence
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted

from tests.integration.fenced import (  # noqa: F401 - fixtures among them
    APP,
    GUEST,
    MEMBER,
    OWNER,
    RUN,
    SUPER,
    place,
    server,
)
from tests.unit.conftest import golden  # noqa: F401 - a fixture
from tests.waiting import wait_for

# ruff: noqa: F811


# What closing takes and opening gives.

GRANTS = {
    "as after bootstrap": [],
    "the default": ["GRANT CONNECT ON DATABASE {} TO PUBLIC", f"REVOKE CONNECT ON DATABASE {{}} FROM {APP}"],
    "nobody": [f"REVOKE CONNECT ON DATABASE {{}} FROM {APP}"],
    "several, quoted, one with the grant option": [
        "GRANT CONNECT ON DATABASE {} TO PUBLIC",
        f"GRANT CONNECT ON DATABASE {{}} TO {quoted(GUEST)} WITH GRANT OPTION",
        f"GRANT CREATE ON DATABASE {{}} TO {APP}",
    ],
    "the owner's own right written down": [f"GRANT CONNECT ON DATABASE {{}} TO {quoted(OWNER)}"],
    "the owner without it": [f"REVOKE CONNECT ON DATABASE {{}} FROM {quoted(OWNER)}"],
}


@pytest.mark.parametrize("name", GRANTS)
def test_everybody_gets_back_exactly_what_they_had(place, name):
    with place.admin() as admin:
        for statement in GRANTS[name]:
            admin.execute(statement.format(place.name))
    before, app = place.acl(), place.may_connect(APP)
    record = place.close(user="postgres")
    lost = {entry for entry in before if entry[2] == "CONNECT" and entry[0] != quoted(OWNER)}
    assert place.acl() == before - lost, "nothing but the right to connect is taken"
    assert {(grant["oid"] == 0, grant["grantable"]) for grant in record["grants"]} == {
        (grantee == "-", grantable) for grantee, _, _, grantable in lost
    }
    assert not place.may_connect(APP)
    assert not place.may_connect(GUEST)
    assert place.may_connect("postgres")
    assert place.open_again() is True
    assert (place.acl(), place.may_connect(APP)) == (before, app)
    assert place.open_again() is False, "there is nothing more to give"


def test_a_role_is_let_in_under_its_new_name_and_one_that_is_gone_is_nobodys_trouble(place):
    with place.admin() as admin:
        admin.execute(
            f"CREATE ROLE fen_renamed LOGIN; CREATE ROLE fen_gone LOGIN; GRANT CONNECT ON DATABASE {place.name} "
            "TO fen_renamed, fen_gone"
        )
        place.close(user="postgres")
        admin.execute("ALTER ROLE fen_renamed RENAME TO fen_zz")
        admin.execute("DROP ROLE fen_gone")
        assert place.open_again() is True
        assert place.may_connect("fen_zz")
        assert place.may_connect(APP)
        admin.execute(f"REVOKE CONNECT ON DATABASE {place.name} FROM fen_zz; DROP ROLE fen_zz")


def test_the_owner_alone_may_close_and_open_and_nobody_loses_a_session(place):
    with place.admin() as admin:
        admin.execute(f"GRANT CONNECT ON DATABASE {place.name} TO PUBLIC")
    with place.connect(APP) as app, place.connect(GUEST) as guest:
        assert place.close()["ended_roles"] == []
        assert [place.may_connect(role) for role in (APP, GUEST, OWNER, MEMBER)] == [False, False, True, True]
        for session in (app, guest):
            assert session.execute("SELECT 1").fetchone() == (1,)
        with place.ours("postgres") as connection:
            assert open_fence(connection, place.run_dir)
    assert place.may_connect(APP)
    assert place.may_connect(GUEST)


def test_what_is_taken_is_on_record_before(place):
    before, failed = place.acl(), []

    def close() -> None:
        try:
            place.close()
        except psycopg.Error as error:
            failed.append(error)

    with place.admin() as other, other.transaction(force_rollback=True):
        other.execute(f"GRANT TEMPORARY ON DATABASE {place.name} TO {APP}")
        closing = threading.Thread(target=close)
        closing.start()
        wait_for(place.closed)
        assert place.acl() == before
        closing.join(20)
    assert isinstance(failed[0], psycopg.errors.LockNotAvailable)
    assert (place.run_dir / FENCE).stat().st_mode & 0o777 == 0o600
    assert place.open_again()
    assert place.acl() == before


def test_closing_twice_keeps_the_first_record(place):
    before = place.acl()
    first = place.close()
    assert place.close() == first
    assert place.close(by_right=False) == first
    assert place.open_again()
    assert place.acl() == before


def test_a_database_that_was_renamed_meanwhile_is_opened_and_its_successor_left_alone(place):
    before = place.acl()
    place.close()
    kept = f"{place.database}_before_{RUN}"
    with place.admin() as admin:
        admin.execute(f"ALTER DATABASE {place.name} RENAME TO {quoted(kept)}")
        admin.execute(f"CREATE DATABASE {place.name}")
        untouched = place.acl()
        assert place.open_again()
        assert place.acl(kept) == before
        assert place.acl() == untouched


def test_a_database_that_was_dropped_meanwhile_needs_nothing(place):
    place.close()
    with place.admin() as admin:
        admin.execute(f"DROP DATABASE {place.name} WITH (FORCE)")
        assert open_fence(admin, place.run_dir) is True
    assert not place.closed()


# Who is kept out how.


@pytest.mark.parametrize(
    ("user", "role", "ended"),
    [
        (OWNER, APP, []),
        (OWNER, MEMBER, [MEMBER]),
        # The guard would end with its first attempt, and the lock with it.
        (OWNER, SUPER, []),
        ("postgres", SUPER, [SUPER]),
        ("postgres", MEMBER, [MEMBER]),
        ("postgres", OWNER, [OWNER]),
    ],
)
def test_sessions_are_ended_of_those_that_no_right_keeps_out(place, user, role, ended):
    assert place.close([role, "nobody_known"], user=user)["ended_roles"] == ended


def test_a_right_that_somebody_passed_on_is_left_alone(place):
    with place.connect("postgres") as admin:
        admin.execute(f"GRANT CONNECT ON DATABASE {place.name} TO {quoted(GUEST)} WITH GRANT OPTION")
        admin.execute(f"SET ROLE {quoted(GUEST)}; GRANT CONNECT ON DATABASE {place.name} TO {MEMBER}; RESET ROLE")
    before = place.acl()
    record = place.close()
    assert (record["grants"], record["ended_roles"]) == ([], [APP])
    assert place.acl() == before


def test_who_is_kept_out_is_told(place):
    with place.connect() as owner:
        assert fence.kept_out(owner, [APP, SUPER, MEMBER, "nobody_known"]) == []
        place.close()
        assert fence.kept_out(owner, [APP, GUEST, SUPER, MEMBER, OWNER]) == [GUEST, APP]


def test_what_the_preflight_says(place, golden):
    def told(user: str, writers: list[str], **more: bool) -> str:
        with place.connect(user) as connection:
            checks = fence.check_fence(connection, writers, "staging", **more)
        lines = [f"{check.state}: {check.text}" + (f" -> {check.next}" if check.next else "") for check in checks]
        return "\n".join(
            [f"{user} asks about {', '.join(writers) or 'nobody'}{' not by right' if more else ''}", *lines]
        )

    scenes = [
        told(OWNER, [APP]),
        told(OWNER, [APP, GUEST]),
        told(OWNER, []),
        told(OWNER, [APP, "nobody_known"]),
        told(OWNER, [SUPER]),
        told("postgres", [SUPER, APP]),
        told(OWNER, [OWNER, MEMBER]),
        told(OWNER, [APP, MEMBER, SUPER], by_right=False),
    ]
    with place.admin() as admin:
        admin.execute(f"REVOKE pg_signal_backend FROM {quoted(OWNER)}")
        try:
            scenes += [told(OWNER, [OWNER, APP]), told(OWNER, [APP], by_right=False)]
        finally:
            admin.execute(f"GRANT pg_signal_backend TO {quoted(OWNER)}")
        admin.execute(f"GRANT CONNECT ON DATABASE {place.name} TO {quoted(GUEST)} WITH GRANT OPTION")
        admin.execute(f"SET ROLE {quoted(GUEST)}; GRANT CONNECT ON DATABASE {place.name} TO {MEMBER}; RESET ROLE")
    golden("fence/checks", "\n\n".join([*scenes, told(OWNER, [APP])]))


@pytest.mark.parametrize(
    "statement",
    [
        "REVOKE CONNECT ON DATABASE habitat FROM PUBLIC",
        "grant all privileges\n  on\tdatabase habitat to habitat_app with grant option",
        "DO $$BEGIN EXECUTE 'revoke connect on database ' || current_database() || ' from public'; END$$",
        "SELECT 1; GRANT TEMP ON DATABASE a, b TO c",
        "ALTER DATABASE habitat OWNER TO somebody",
        "REASSIGN OWNED BY habitat TO habitat_owner",
        "DROP OWNED BY habitat_app",
    ],
)
def test_statements_that_change_who_may_connect(statement):
    assert fence.touches(["SELECT 1", statement])


@pytest.mark.parametrize(
    "statement",
    [
        "GRANT SELECT ON members TO habitat_app",
        "GRANT USAGE ON SCHEMA public TO habitat_app",
        "GRANT habitat_readers TO habitat_app",
        "GRANT SELECT ON a TO b; COMMENT ON DATABASE habitat IS 'x'",
        "ALTER DATABASE habitat SET work_mem = '7MB'",
        "ALTER TABLE members OWNER TO somebody",
        "CREATE TABLE grant_on_database (regrant int, owned text)",
        "DROP TABLE owned",
        "COMMENT ON DATABASE habitat IS 'x'",
    ],
)
def test_statements_that_do_not(statement):
    assert not fence.touches([statement])
