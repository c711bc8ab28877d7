"""Roles, memberships, settings and tablespaces as SQL: made again as they were, and only where they are missing."""

from __future__ import annotations

import contextlib
import os

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.globals_dump import globals_sql, literal
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted

MARK = f"g{os.getpid()}"
# Names that break whatever does not quote them: quotes, dollars, a newline, a backslash, psql's own signs.
BOSS, CLERK, GUEST = (f"{MARK} Bo\"s's $globals$", f"{MARK} cl\\erk\n:missing", f"{MARK}guest")
SPACE = f'{MARK} "Space"'

_LOOK = {
    "roles": """SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,
                  rolconnlimit, rolbypassrls, rolvaliduntil::text, shobj_description(oid, 'pg_authid')
                FROM pg_roles WHERE rolname LIKE %s ORDER BY 1""",
    "members": """SELECT roleid::regrole::text, member::regrole::text, grantor::regrole::text,
                    to_jsonb(a) - 'oid' - 'roleid' - 'member' - 'grantor'
                  FROM pg_auth_members a WHERE pg_get_userbyid(member) LIKE %s ORDER BY 1, 2, 3""",
    "settings": """SELECT setrole::regrole::text, ARRAY(SELECT unnest(setconfig) ORDER BY 1) FROM pg_db_role_setting
                   WHERE setdatabase = 0 AND (setrole = 0 OR pg_get_userbyid(setrole) LIKE %s) ORDER BY 1""",
    "spaces": """SELECT spcname, spcowner::regrole::text, spcacl::text, spcoptions, pg_tablespace_location(oid),
                   shobj_description(oid, 'pg_tablespace') FROM pg_tablespace WHERE spcname LIKE %s""",
}


def look(connection) -> dict:
    return {name: connection.execute(text, [f"{MARK}%"]).fetchall() for name, text in _LOOK.items()}


def drop(connection) -> None:
    with contextlib.suppress(connection.Error):
        connection.execute(f"DROP TABLESPACE IF EXISTS {quoted(SPACE)}")
    connection.execute("ALTER ROLE ALL RESET ALL")
    for role in (GUEST, CLERK, BOSS):
        connection.execute(f"DROP ROLE IF EXISTS {quoted(role)}")


@pytest.fixture
def globals_there(cluster, tmp_path):
    """Roles, memberships, settings and a tablespace with everything they can have; dropped after the test."""
    boss, clerk, guest, space = map(quoted, (BOSS, CLERK, GUEST, SPACE))
    folder = cluster.folder / f"space {tmp_path.name}"
    folder.mkdir()
    # initdb refuses root, so the server may be another user.
    owner = (cluster.folder / "data").stat()
    os.chown(folder, owner.st_uid, owner.st_gid)
    location = literal(str(folder))
    with cluster.connect() as admin:
        drop(admin)
        admin.execute(f"CREATE ROLE {boss} CREATEROLE CREATEDB LOGIN PASSWORD 'c4n4ry' CONNECTION LIMIT 7")
        admin.execute(f"CREATE ROLE {clerk} NOINHERIT BYPASSRLS REPLICATION LOGIN VALID UNTIL '2031-02-03 04:05:06+02'")
        admin.execute(f"CREATE ROLE {guest}")
        admin.execute(f"COMMENT ON ROLE {clerk} IS 'it''s a $$ \\ :missing clerk'")
        admin.execute(f"ALTER ROLE {clerk} SET search_path TO 'a b', \"$user\"")
        admin.execute(f"ALTER ROLE {clerk} SET \"app.tenant\" TO 'it''s \\ 1'")
        admin.execute(f"ALTER ROLE {guest} SET work_mem TO '5MB'")
        admin.execute("ALTER ROLE ALL SET \"app.all\" TO 'x=y'")
        admin.execute(f"GRANT {guest} TO {boss} WITH ADMIN OPTION; GRANT pg_monitor TO {clerk}")
        if admin.info.server_version >= 160000:
            admin.execute(f"GRANT {guest} TO {clerk} WITH INHERIT TRUE, SET FALSE GRANTED BY {boss}")
        admin.execute(f"CREATE TABLESPACE {space} OWNER {boss} LOCATION {location}")
        admin.execute(f"ALTER TABLESPACE {space} SET (random_page_cost = 1.5)")
        admin.execute(f"COMMENT ON TABLESPACE {space} IS 'fast'")
        admin.execute(f"GRANT CREATE ON TABLESPACE {space} TO {clerk} WITH GRANT OPTION")
        admin.execute(f"SET ROLE {clerk}; GRANT CREATE ON TABLESPACE {space} TO {guest}; RESET ROLE")
        yield admin
        drop(admin)


def test_what_was_dropped_is_made_again_and_the_second_time_nothing_changes(cluster, globals_there, tmp_path):
    before, text = look(globals_there), globals_sql(globals_there)
    assert all(before.values())
    assert text == globals_sql(globals_there)
    assert "c4n4ry" not in text
    drop(globals_there)
    assert not any(look(globals_there).values())
    file = tmp_path / "globals.sql"
    file.write_text(text, encoding="utf-8")
    done = cluster.psql("postgres", "-v", "ON_ERROR_STOP=1", "-f", str(file))
    assert (done.returncode, "ERROR" in done.stderr) == (0, False), done.stderr
    assert look(globals_there) == before
    again = cluster.psql("postgres", "-v", "ON_ERROR_STOP=1", "-f", str(file))
    assert again.returncode == 0, again.stderr
    assert f"role {GUEST} exists, it is left as it is" in again.stderr
    assert "this tablespace exists" in again.stderr
    assert look(globals_there) == before
    assert globals_sql(globals_there) == text


def test_what_is_there_but_different_is_left(cluster, globals_there, tmp_path):
    file = tmp_path / "globals.sql"
    file.write_text(globals_sql(globals_there), encoding="utf-8")
    globals_there.execute(f"ALTER ROLE {quoted(CLERK)} NOLOGIN; ALTER ROLE {quoted(CLERK)} RESET ALL")
    globals_there.execute("ALTER ROLE ALL SET \"app.all\" TO 'other'")
    changed = look(globals_there)
    assert cluster.psql("postgres", "-v", "ON_ERROR_STOP=1", "-f", str(file)).returncode == 0
    assert look(globals_there) == changed


def test_a_plain_role_inside_a_transaction_sees_the_same(cluster, globals_there):
    whole = globals_sql(globals_there)
    with cluster.connect(user=BOSS) as plain:
        plain.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        assert globals_sql(plain) == whole
        plain.execute("COMMIT")


def test_what_may_not_be_seen_is_left_out_and_said(cluster, globals_there):
    globals_there.execute("REVOKE SELECT ON pg_catalog.pg_db_role_setting FROM PUBLIC")
    try:
        with cluster.connect(user=BOSS) as plain:
            text = globals_sql(plain)
    finally:
        globals_there.execute("GRANT SELECT ON pg_catalog.pg_db_role_setting TO PUBLIC")
    assert "-- left out: the settings of roles, since role" in text
    assert f"CREATE ROLE {quoted(GUEST)}" in text
    assert "work_mem" not in text


def test_the_setting_that_is_an_empty_list(cluster, globals_there, tmp_path):
    # As ALTER ROLE FROM CURRENT leaves it after set_config(..., '').
    guest = quoted(GUEST)
    globals_there.execute(
        f"SELECT set_config('search_path', '', false); ALTER ROLE {guest} SET search_path FROM CURRENT"
    )
    globals_there.execute("RESET search_path")
    before, text = look(globals_there), globals_sql(globals_there)
    drop(globals_there)
    file = tmp_path / "globals.sql"
    file.write_text(text, encoding="utf-8")
    done = cluster.psql("postgres", "-v", "ON_ERROR_STOP=1", "-f", str(file))
    assert done.returncode == 0, done.stderr
    assert look(globals_there) == before
