"""The catalog as data: it changes with the schema, with nothing else, and is equal where schemas are."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import catalog as module
from ansible_collections.habitat.runbook.plugins.module_utils.catalog import (
    ORDER,
    changes,
    digests,
    fingerprint,
    read_catalog,
    undone,
)

from demo.embedded import postgres
from tests.integration import habitat
from tests.integration.schema_of_everything import BODY, CHANGES, FIXTURE, REMADE, ROLES, VIEW

DATABASE = "catalog_of_everything"


@pytest.fixture(scope="module")
def everything(cluster) -> Iterator[psycopg.Connection]:
    """A session in a database with objects of every kind; every test leaves it as it was."""
    with cluster.connect() as admin:
        for role in ROLES:
            admin.execute(f"CREATE ROLE {role} LOGIN")
        admin.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0")
        with cluster.connect(DATABASE) as session:
            session.execute(FIXTURE)
            yield session
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
        for role in ROLES:
            admin.execute(f"DROP ROLE {role}")


def changed_by(session: psycopg.Connection, *statements: str) -> set[str]:
    before = digests(read_catalog(session))
    for statement in statements:
        session.execute(statement)
    return set(changes(before, digests(read_catalog(session))))


@pytest.fixture(scope="module")
def before(everything) -> dict[str, str]:
    """The catalog as it was made."""
    return read_catalog(everything)


@pytest.fixture(scope="module")
def dump(everything) -> list[str]:
    return habitat.schema_of(everything)


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_seen_where_it_is_and_gone_with_its_inverse(everything, before, dump, kind):
    there, back, identities = CHANGES[kind]
    everything.execute(there)
    try:
        after = read_catalog(everything)
        found = set(changes(digests(before), digests(after)))
        # From 17 on NOT NULL of a domain, and from 18 on that of a column, is a constraint with a name as well.
        found = {one for one in found if "_not_null on " not in one}
        assert found == identities
        assert fingerprint(after) != fingerprint(before)
        assert habitat.schema_of(everything) != dump
    finally:
        everything.execute(back)
    assert read_catalog(everything) == before


@pytest.mark.parametrize("kind", REMADE)
def test_what_is_made_in_another_way_differs(everything, before, kind):
    made, remade, dropped, identity = REMADE[kind]
    catalogs = []
    for statement in (made, remade):
        everything.execute(statement)
        catalogs.append(read_catalog(everything))
        for part in dropped.split(";"):
            everything.execute(part)
    one, other = catalogs
    assert {name for name in one.keys() & other.keys() if one[name] != other[name]} == {identity}
    assert "hidden" not in str(other)
    assert read_catalog(everything) == before


# pg_dump does not tell these, and a schema with them behaves in another way.
@pytest.mark.parametrize(
    ("there", "back", "identity"),
    [
        (
            "SET session_replication_role = replica; ALTER TABLE notes DISABLE TRIGGER ALL; RESET session_replication_role",
            "ALTER TABLE notes ENABLE TRIGGER ALL",
            "table public.notes",
        ),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'by_name'::regclass",
            "UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'by_name'::regclass",
            "index public.by_name",
        ),
    ],
)
def test_what_no_dump_tells_is_seen_as_well(everything, there, back, identity):
    before = read_catalog(everything)
    assert changed_by(everything, there) == {identity}
    everything.execute(back)
    assert read_catalog(everything) == before


@pytest.mark.parametrize(
    "statement",
    [
        BODY.format("*"),
        VIEW,
        "VACUUM FULL",
        "REINDEX TABLE members",
        "REINDEX TABLE CONCURRENTLY members",
        "ANALYZE",
        "INSERT INTO members (email) VALUES ('new@one')",
        "SELECT nextval('shop.counter'), setval('members_id_seq', 500)",
        "REFRESH MATERIALIZED VIEW counted",
        "TRUNCATE notes",
        f"ALTER DATABASE {DATABASE} SET work_mem = '5MB'",
        "CREATE TEMPORARY TABLE members (a integer)",
        "CREATE TEMPORARY TABLE pg_class (a integer)",
        "GRANT DELETE ON child TO catalog_reader; REVOKE DELETE ON child FROM catalog_reader",
        "REVOKE EXECUTE ON PROCEDURE tidy() FROM PUBLIC; GRANT EXECUTE ON PROCEDURE tidy() TO PUBLIC",
        "ALTER TABLE orphan ADD COLUMN c integer; ALTER TABLE orphan DROP COLUMN c",
        "ALTER TABLE schema_migrations ADD COLUMN m serial CHECK (m > 0); CREATE INDEX ON schema_migrations (m)",
        "GRANT SELECT ON schema_migrations_history TO PUBLIC",
        "COMMENT ON COLUMN schema_migrations.version IS 'x'",
        "CREATE TABLE schema_migrations_progress (id integer GENERATED ALWAYS AS IDENTITY, what text)",
        "COMMENT ON FUNCTION akeys(hstore) IS 'x'",
        "ALTER FUNCTION akeys(hstore) COST 5",
        "CREATE TABLE fleeting (a integer, PRIMARY KEY (a)); DROP TABLE fleeting",
    ],
)
def test_what_is_no_part_of_the_schema_changes_nothing(everything, before, statement):
    everything.execute(statement)
    assert read_catalog(everything) == before


def test_the_tablespace_of_tables_and_indexes_is_seen(everything, before):
    everything.execute("SET allow_in_place_tablespaces = on")
    everything.execute("CREATE TABLESPACE elsewhere LOCATION ''")
    try:
        assert changed_by(everything, "ALTER TABLE parent SET TABLESPACE elsewhere") == {"table public.parent"}
        assert changed_by(everything, "ALTER INDEX by_id SET TABLESPACE elsewhere") == {"index public.by_id"}
    finally:
        everything.execute("ALTER TABLE parent SET TABLESPACE pg_default")
        everything.execute("ALTER INDEX by_id SET TABLESPACE pg_default")
        everything.execute("DROP TABLESPACE elsewhere")
    assert read_catalog(everything) == before


def test_every_identity_is_there_once_and_names_its_object(everything):
    with everything.transaction(), everything.cursor() as cursor:
        cursor.execute(module.SETTINGS)
        ((text,),) = cursor.execute(module._QUERY).fetchall()
    identities = [identity for identity, _ in json.loads(text, object_pairs_hook=list)]
    assert sorted(identities) == sorted(set(identities))
    for ours in ("table public.members", "type public.mood", "extension hstore", "function public.twice(integer)"):
        assert ours in identities
    outside = re.compile(r"pg_temp|pg_toast|information_schema|schema_migrations|hstore\b(?!$)|akeys")
    assert [identity for identity in identities if outside.search(identity)] == []


def test_no_secret_is_in_it(everything):
    catalog = read_catalog(everything)
    assert "hidden" not in str(catalog)
    assert catalog["user mapping for catalog_reader on server far"] == "options password, username"


def test_the_restored_copy_is_equal(everything, cluster, tmp_path):
    """Numbers of objects and positions of columns are others there, so none of them can be in it."""
    copy, file = f"{DATABASE}_copy", tmp_path / "dump"
    where = ["-h", str(cluster.folder), "-p", str(cluster.port), "-U", "postgres"]
    subprocess.run([postgres.tool("pg_dump"), *where, "-Fc", "-f", file, DATABASE], check=True)
    everything.execute(f"CREATE DATABASE {copy} TEMPLATE template0")
    try:
        with cluster.connect(copy) as other:
            # The numbers of the objects made now must not be those of the original by chance.
            other.execute("SELECT lo_unlink(lo_create(0)) FROM generate_series(1, 100)")
            subprocess.run([postgres.tool("pg_restore"), *where, "-e", "-d", copy, file], check=True)
            assert read_catalog(other) == read_catalog(everything)
            # A row type is made of the dropped column, too, so it is there to be tested.
            dropped = "SELECT count(*) FROM pg_attribute WHERE attisdropped"
            assert everything.execute(dropped).fetchone() != other.execute(dropped).fetchone()
    finally:
        everything.execute(f"DROP DATABASE {copy} WITH (FORCE)")


def test_other_order_of_columns_is_an_entry_of_its_own(everything):
    before = read_catalog(everything)
    name = "table orphan (a integer CONSTRAINT parent_a_check CHECK (a > 0), b integer)"
    everything.execute(f"DROP TABLE orphan; CREATE {name}")
    assert read_catalog(everything) == before
    assert changed_by(everything, "ALTER TABLE orphan DROP COLUMN a; ALTER TABLE orphan ADD COLUMN a integer") == {
        f"{ORDER}public.orphan",
        "constraint parent_a_check on public.orphan",
    }
    everything.execute("ALTER TABLE orphan ADD CONSTRAINT parent_a_check CHECK (a > 0)")
    after = read_catalog(everything)
    assert set(changes(digests(before), digests(after))) == {f"{ORDER}public.orphan"}
    assert fingerprint(after) == fingerprint(before)
    everything.execute(f"DROP TABLE orphan; CREATE {name}")


OTHER_SETTINGS = {
    "search_path": "shop, public",
    "datestyle": "SQL, DMY",
    "intervalstyle": "iso_8601",
    "timezone": "Asia/Tokyo",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "extra_float_digits": "-3",
    "bytea_output": "escape",
    "jit": "on",
}


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("scope", ["SESSION", "LOCAL"])
def test_settings_neither_matter_nor_change(everything, cluster, autocommit, scope):
    wanted = read_catalog(everything)
    with cluster.connect(DATABASE, autocommit=autocommit) as session:
        if scope == "LOCAL" and autocommit:
            session.execute("BEGIN")
        for name, value in OTHER_SETTINGS.items():
            session.execute(f"SELECT set_config(%s, %s, {scope == 'LOCAL'})", [name, value])
        if scope == "SESSION" and not autocommit:
            session.commit()
        shown = session.execute("SELECT name, setting, source FROM pg_settings ORDER BY name").fetchall()
        if scope == "SESSION" and not autocommit:
            session.commit()
        assert read_catalog(session) == wanted
        assert session.execute("SELECT name, setting, source FROM pg_settings ORDER BY name").fetchall() == shown
        session.execute("ROLLBACK")


def test_inside_a_transaction_it_sees_what_is_not_committed_and_keeps_no_lock(everything, cluster):
    with cluster.connect(DATABASE) as session, session.cursor() as cursor:
        before = read_catalog(session)
        cursor.execute("BEGIN")
        cursor.execute("CREATE VIEW later AS SELECT 1 AS one")
        held = cursor.execute("SELECT relation FROM pg_locks WHERE pid = pg_backend_pid() ORDER BY 1").fetchall()
        seen = read_catalog(session)
        assert set(changes(before, seen)) == {"view public.later", "column public.later.one"}
        now = cursor.execute("SELECT relation FROM pg_locks WHERE pid = pg_backend_pid() ORDER BY 1").fetchall()
        assert now == held
        assert read_catalog(everything) == before
        cursor.execute("ROLLBACK")
        assert session.info.transaction_status == 0
        assert read_catalog(session) == before


def test_a_lock_that_is_not_got_leaves_the_session_usable(everything, cluster):
    with cluster.connect(DATABASE) as other, cluster.connect(DATABASE) as session:
        session.execute("SET lock_timeout = '50ms'")
        with other.transaction():
            other.execute("LOCK TABLE members IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                read_catalog(session)
        assert session.info.transaction_status == 0
        assert read_catalog(session) == read_catalog(everything)


def test_a_role_without_special_rights_sees_the_same(everything, cluster):
    hidden = "user mapping for catalog_reader on server far"
    wanted = read_catalog(everything)
    for role in ROLES:
        with cluster.connect(DATABASE, user=role) as session:
            seen = read_catalog(session)
            assert {**seen, hidden: wanted[hidden]} == wanted


def test_an_empty_database_has_an_extension_and_a_schema(connection):
    assert set(read_catalog(connection)) == {"extension plpgsql", "schema public"}
    connection.execute("DROP SCHEMA public CASCADE")
    connection.execute("DROP EXTENSION plpgsql")
    assert read_catalog(connection) == {}


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_other_encodings(cluster, encoding):
    with cluster.connect() as admin:
        admin.execute(f"CREATE DATABASE encoded TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
        try:
            with cluster.connect("encoded", client_encoding=encoding) as session:
                session.execute("CREATE TABLE t (a text); COMMENT ON TABLE t IS E'\\xe9'")
                assert "comment" in read_catalog(session)["table public.t"]
                assert fingerprint(read_catalog(session)) == fingerprint(read_catalog(session))
        finally:
            admin.execute("DROP DATABASE encoded WITH (FORCE)")


def test_habitats_own_migrations_are_exactly_undone(connection, cluster, database):
    habitat.make_roles(cluster, database)
    with cluster.connect(database, user="habitat") as session:
        states = [digests(read_catalog(session))]
        versions = list(habitat.MIGRATIONS)
        for version in versions:
            habitat.apply(session, version, version)
            states.append(digests(read_catalog(session)))
        made = [changes(*pair) for pair in zip(states, states[1:])]
        assert all(made)
        session.execute("DROP TABLE email_verifications")  # the last one's down section is a comment
        assert undone(made[-1], states[-1], digests(read_catalog(session))) == ([], [])
        for version, changed in reversed(list(zip(versions, made))[:-1]):
            before = digests(read_catalog(session))
            habitat.revert(session, version)
            assert undone(changed, before, digests(read_catalog(session))) == ([], [])
        assert digests(read_catalog(session)) == states[0]
