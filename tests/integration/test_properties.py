"""Properties of databases as a whole: read, applied to another database, compared."""

from __future__ import annotations

import os

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import properties
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, quoted

NOTHING = {
    "connection_limit": -1,
    "comment": None,
    "settings": [],
    "acl": None,
    "tablespace": "pg_default",
    "security_labels": [],
}


@pytest.fixture
def admin(cluster):
    with cluster.connect() as session:
        yield session


@pytest.fixture
def other(admin):
    """Name of a second database, which needs quotes."""
    name = f'An "other" {os.getpid()}'
    admin.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0")
    yield name
    admin.execute(f"DROP DATABASE {quoted(name)} WITH (FORCE)")


@pytest.fixture
def roles(admin, database, other):
    """Three roles whose names need quotes: an owner who may create databases and two others."""
    names = [f"{word} {os.getpid()}" for word in ("Owner", "App", 'Re"port')]
    for name in names:
        admin.execute(f"CREATE ROLE {quoted(name)} LOGIN")
    admin.execute(f"ALTER ROLE {quoted(names[0])} CREATEDB")
    yield names
    for name in (database, other):
        admin.execute(f"ALTER DATABASE {quoted(name)} OWNER TO postgres")
    for name in names:
        admin.execute(f"DROP OWNED BY {quoted(name)} CASCADE")
        admin.execute(f"DROP ROLE {quoted(name)}")


def test_of_a_new_database(admin, database):
    assert properties.read_properties(admin, database) == NOTHING


def test_of_no_database(admin):
    with pytest.raises(BackupError, match="there is no database nowhere on this server; name another one"):
        properties.read_properties(admin, "nowhere")


VALUES = {
    "search_path": ['"$user", public', '"a,b", "Quo""ted", \'it\'\'s\'', "''", "plain"],
    "work_mem": ["'64MB'", "65"],
    "application_name": ["'it''s \\ \"odd\", = $1 %s {}'"],
    "DateStyle": ["'German, YMD'"],
    "myapp.tenant": ["'a=b'"],
    "session_preload_libraries": ["'auto_explain', 'x y'"],
}


@pytest.mark.parametrize("name", sorted(VALUES))
def test_settings_arrive_as_they_are(cluster, admin, database, other, name):
    for value in VALUES[name]:
        admin.execute(f"ALTER DATABASE {quoted(database)} SET {name} TO {value}")
        told = properties.read_properties(admin, database)
        assert told["settings"][0]["name"].lower() == name.lower()
        properties.apply_properties(admin, other, told, "postgres")
        query = "SELECT setconfig::text FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE datname = %s"
        texts = [admin.execute(query, [which]).fetchone()[0] for which in (database, other)]
        assert texts[0] == texts[1]


def test_an_empty_list_that_cannot_be_typed(admin, database, other):
    admin.execute("SELECT set_config('search_path', '', false)")
    admin.execute(f"ALTER DATABASE {quoted(database)} SET search_path FROM CURRENT")
    told = properties.read_properties(admin, database)
    assert told["settings"] == [{"role": None, "name": "search_path", "value": ""}]
    properties.apply_properties(admin, other, told, "postgres")
    assert properties.read_properties(admin, other) == told


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ('"$user", public', ["$user", "public"]),
        ('""', [""]),
        ("", []),
        ('"a,b" ,  "c""d",E', ["a,b", 'c"d', "E"]),
    ],
)
def test_names_in_a_list(value, names):
    assert properties.names_in(value) == names


def everything(admin, database, roles) -> dict:
    """Give a database one of each property; returns them as read."""
    owner, app, report = (quoted(name) for name in roles)
    name = quoted(database)
    for statement in (
        f"ALTER DATABASE {name} OWNER TO {owner}",
        f"ALTER DATABASE {name} CONNECTION LIMIT 7",
        f"COMMENT ON DATABASE {name} IS 'it''s \\ ours'",
        f"ALTER DATABASE {name} SET work_mem = '64MB'",
        f"ALTER DATABASE {name} SET default_transaction_read_only = on",
        f"ALTER ROLE {app} IN DATABASE {name} SET search_path = \"$user\", 'App data'",
        f"ALTER ROLE {app} IN DATABASE {name} SET statement_timeout = '5s'",
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {name} TO {app} WITH GRANT OPTION",
        f"GRANT TEMPORARY ON DATABASE {name} TO {app}",
        f"REVOKE CREATE ON DATABASE {name} FROM {owner}",
        f"SET ROLE {app}; GRANT CONNECT ON DATABASE {name} TO {report}; RESET ROLE",
    ):
        admin.execute(statement)
    return properties.read_properties(admin, database)


def test_everything_is_read(admin, database, roles):
    owner, app, report = roles
    assert everything(admin, database, roles) == {
        "connection_limit": 7,
        "comment": "it's \\ ours",
        "settings": [
            {"role": None, "name": "default_transaction_read_only", "value": "on"},
            {"role": None, "name": "work_mem", "value": "64MB"},
            {"role": app, "name": "search_path", "value": '"$user", "App data"'},
            {"role": app, "name": "statement_timeout", "value": "5s"},
        ],
        "acl": [
            {"grantee": app, "grantor": owner, "privilege": "CONNECT", "grantable": True},
            {"grantee": app, "grantor": owner, "privilege": "TEMPORARY", "grantable": False},
            {"grantee": owner, "grantor": owner, "privilege": "CONNECT", "grantable": False},
            {"grantee": owner, "grantor": owner, "privilege": "TEMPORARY", "grantable": False},
            {"grantee": report, "grantor": app, "privilege": "CONNECT", "grantable": False},
        ],
        "tablespace": "pg_default",
        "security_labels": [],
    }


def test_everything_is_applied_and_taken_away_again(admin, database, other, roles):
    told = everything(admin, database, roles)
    admin.execute(f"ALTER DATABASE {quoted(other)} SET jit = off")
    admin.execute(f"GRANT CREATE ON DATABASE {quoted(other)} TO {quoted(roles[2])} WITH GRANT OPTION")
    for _ in range(2):
        properties.apply_properties(admin, other, told, roles[0])
        assert properties.read_properties(admin, other) == told
    properties.apply_properties(admin, other, NOTHING, "postgres")
    assert properties.read_properties(admin, other) == NOTHING
    assert properties.read_properties(admin, database) == told
    assert admin.execute("SELECT current_user::text").fetchone()[0] == "postgres"


def test_what_is_so_already_needs_no_right(cluster, admin, database, other, roles):
    told = everything(admin, database, roles)
    properties.apply_properties(admin, other, told, roles[0])
    with cluster.connect(user=roles[1]) as session:
        properties.apply_properties(session, other, told, roles[0])


def test_the_owner_can_apply_what_concerns_itself(cluster, admin, database, other, roles):
    owner = roles[0]
    for name in (database, other):
        admin.execute(f"ALTER DATABASE {quoted(name)} OWNER TO {quoted(owner)}")
    admin.execute(f"REVOKE ALL ON DATABASE {quoted(database)} FROM PUBLIC")
    admin.execute(f"GRANT CONNECT ON DATABASE {quoted(database)} TO {quoted(roles[1])}")
    admin.execute(f"ALTER DATABASE {quoted(database)} SET search_path = app, public")
    admin.execute(f"ALTER ROLE {quoted(owner)} IN DATABASE {quoted(database)} SET work_mem = '1MB'")
    told = properties.read_properties(admin, database)
    with cluster.connect(user=owner) as session:
        properties.apply_properties(session, other, told, owner)
        assert properties.read_properties(session, other) == told


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("ALTER ROLE {app} IN DATABASE {database} SET work_mem = '1MB'", "work_mem of role App {pid} in database "),
        ("ALTER DATABASE {database} SET log_min_messages = 'error'", "log_min_messages of database "),
        ("ALTER DATABASE {database} OWNER TO {app}", "the owner of database "),
    ],
)
def test_a_missing_right_is_told_and_nothing_is_applied(cluster, admin, database, other, roles, statement, message):
    owner, app = roles[:2]
    for name in (database, other):
        admin.execute(f"ALTER DATABASE {quoted(name)} OWNER TO {quoted(owner)}")
    admin.execute(f"ALTER DATABASE {quoted(database)} CONNECTION LIMIT 3")
    admin.execute(statement.format(app=quoted(app), database=quoted(database)))
    told = properties.read_properties(admin, database)
    wanted = app if "OWNER" in statement else owner
    with cluster.connect(user=owner) as session, pytest.raises(BackupError) as refused:
        properties.apply_properties(session, other, told, wanted)
    text = str(refused.value)
    assert text.startswith(message.format(pid=os.getpid()) + other)
    assert text.endswith(f"; do it as a superuser or give role {owner} the right")
    assert "\n" not in text
    assert properties.read_properties(admin, other) == NOTHING


def test_grants_that_postgresql_only_warns_about_are_an_error(cluster, admin, database, other, roles):
    """A role with CONNECT but without grant option: REVOKE and GRANT succeed and do nothing."""
    owner, app = roles[:2]
    admin.execute(f"ALTER DATABASE {quoted(database)} OWNER TO {quoted(owner)}")
    admin.execute(f"GRANT CREATE ON DATABASE {quoted(database)} TO {quoted(app)}")
    admin.execute(f"ALTER DATABASE {quoted(other)} OWNER TO {quoted(owner)}")
    told = properties.read_properties(admin, database)
    with cluster.connect(user=app) as session, pytest.raises(BackupError) as refused:
        properties.apply_properties(session, other, told, owner)
    assert f"database {other}" in str(refused.value)
    assert properties.read_properties(admin, other)["acl"] is None


def test_missing_roles(admin, database, roles):
    told = everything(admin, database, roles)
    backup = {"database": {"owner": roles[0], "properties": told}, "roles": [roles[1]]}
    assert properties.missing_roles(admin, backup) == []
    told["settings"].append({"role": "gone", "name": "work_mem", "value": "1MB"})
    told["acl"].append({"grantee": "never", "grantor": "Gone too", "privilege": "CONNECT", "grantable": False})
    backup["database"]["owner"] = "nobody"
    backup["roles"].append("inside")
    assert properties.missing_roles(admin, backup) == ["Gone too", "gone", "inside", "never", "nobody"]
    nothing = {"database": {"owner": "postgres", "properties": NOTHING}, "roles": []}
    assert properties.missing_roles(admin, nothing) == []


def test_a_role_that_is_gone_is_named(admin, other):
    told = {**NOTHING, "settings": [{"role": "gone", "name": "work_mem", "value": "1MB"}]}
    with pytest.raises(BackupError, match=r'work_mem of role gone in database .* cannot be set: role "gone" does not'):
        properties.apply_properties(admin, other, told, "postgres")


def test_no_sql_comes_in(admin, other):
    entry = {"grantee": "", "grantor": "postgres", "privilege": "CONNECT", "grantable": False}
    for bad in (
        {"acl": [{**entry, "privilege": "ALL ON DATABASE postgres TO PUBLIC; --"}]},
        {"acl": [{**entry, "grantee": "PUBLIC; --"}]},
        {"settings": [{"role": None, "name": "work_mem TO '1MB'; --", "value": "x"}]},
        {"connection_limit": "1; --"},
    ):
        with pytest.raises((BackupError, ValueError)):
            properties.apply_properties(admin, other, {**NOTHING, **bad}, "postgres")
    assert properties.read_properties(admin, other) == NOTHING


def test_differences_are_readable():
    b = {
        **NOTHING,
        "connection_limit": 5,
        "comment": "",
        "settings": [
            {"role": None, "name": "work_mem", "value": "128MB"},
            {"role": "app", "name": "search_path", "value": "x"},
        ],
        "acl": [{"grantee": "", "grantor": "o", "privilege": "CONNECT", "grantable": False}],
    }
    a = {**NOTHING, "settings": [{"role": None, "name": "work_mem", "value": "64MB"}]}
    assert properties.differences(a, a) == []
    assert properties.differences(a, b) == [
        "the connection limit is -1 in the backup and 5 now",
        "the comment is not set in the backup and empty now",
        "the access rights are the default ones in the backup and changed ones now",
        "search_path of role app is not set in the backup and x now",
        "work_mem is 64MB in the backup and 128MB now",
        "CONNECT for PUBLIC (from o) is not set in the backup and granted now",
    ]
    empty = {**NOTHING, "acl": []}
    assert properties.differences(empty, NOTHING) == [
        "the access rights are changed ones in the backup and the default ones now"
    ]


def test_all_rights_taken_from_everybody(admin, database, other):
    admin.execute(f"REVOKE ALL ON DATABASE {quoted(database)} FROM PUBLIC, postgres")
    told = properties.read_properties(admin, database)
    assert told["acl"] == []
    properties.apply_properties(admin, other, told, "postgres")
    assert properties.read_properties(admin, other) == told


def test_a_lost_connection_is_one_sentence(cluster, admin, other):
    with cluster.connect() as session:
        admin.execute("SELECT pg_terminate_backend(%s)", [session.info.backend_pid])
        with pytest.raises((BackupError, psycopg.OperationalError)):
            properties.apply_properties(session, other, {**NOTHING, "connection_limit": 3}, "postgres")
