"""How many rows a down would drop: counted by PostgreSQL, without getting in anybody's way."""

from __future__ import annotations

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import split
from ansible_collections.habitat.runbook.plugins.module_utils.loss_counts import count_losses, relations
from ansible_collections.habitat.runbook.plugins.module_utils.losses import (
    Loss,
    dropped_unannounced,
    find_losses,
    would_lose,
)

from tests.integration import habitat

KINDS = """
CREATE SCHEMA app;
CREATE TABLE a (x int, "Y z" text);
INSERT INTO a VALUES (1, 'a'), (2, NULL), (NULL, NULL);
CREATE TABLE empty (x int);
CREATE TABLE app."T 1" (x int);
INSERT INTO app."T 1" VALUES (1), (2);
CREATE TABLE app.b ("é" int, "a""b.c" int);
CREATE TABLE p (k int, v text, w text) PARTITION BY LIST (k);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE TABLE app.p2 PARTITION OF p FOR VALUES IN (2) PARTITION BY LIST (v);
CREATE TABLE p2x PARTITION OF app.p2 DEFAULT;
INSERT INTO p VALUES (1, 'x', 'x'), (2, 'x', 'x'), (2, 'y', 'x'), (2, NULL, NULL);
CREATE TABLE parent (x int);
CREATE TABLE child (y int) INHERITS (parent);
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (1), (NULL);
CREATE VIEW v AS SELECT * FROM a;
CREATE MATERIALIZED VIEW m AS SELECT * FROM a;
CREATE TABLE t (id int PRIMARY KEY);
CREATE TABLE refers (t int REFERENCES t) PARTITION BY LIST (t);
CREATE TABLE refers1 PARTITION OF refers FOR VALUES IN (1);
CREATE TABLE far (r int PRIMARY KEY, t int REFERENCES t);
CREATE TABLE further (r int REFERENCES far);
CREATE TABLE far_child () INHERITS (far);
ALTER TABLE p1 ADD UNIQUE (k);
CREATE TABLE to_p1 (k int REFERENCES p1 (k));
CREATE SCHEMA whole;
CREATE TABLE whole.q (k int) PARTITION BY LIST (k);
CREATE TABLE whole.q1 PARTITION OF whole.q FOR VALUES IN (1);
INSERT INTO whole.q VALUES (1), (1);
INSERT INTO t VALUES (1), (2);
INSERT INTO refers VALUES (1);
INSERT INTO far VALUES (7, 1), (8, 2);
INSERT INTO further VALUES (7), (7), (8);
CREATE TABLE old (x int);
CREATE TABLE young (PRIMARY KEY (x)) INHERITS (old);
CREATE TABLE to_young (x int REFERENCES young);
INSERT INTO old VALUES (1);
INSERT INTO young VALUES (1);
INSERT INTO to_young VALUES (1);
INSERT INTO far_child VALUES (9, 9);
INSERT INTO to_p1 VALUES (1);
"""


@pytest.fixture
def kinds(connection) -> psycopg.Connection:
    connection.execute(KINDS)
    return connection


@pytest.fixture(scope="module")
def shared(cluster):
    """The same for tests that leave nothing behind."""
    with cluster.connect() as admin:
        admin.execute("CREATE DATABASE loss_counts TEMPLATE template0")
    with cluster.connect("loss_counts") as session:
        session.execute(KINDS)
        yield session
    with cluster.connect() as admin:
        admin.execute("DROP DATABASE loss_counts WITH (FORCE)")


def count(connection: psycopg.Connection, sql: str, **more: int) -> list[dict]:
    return count_losses(connection, find_losses(list(split(sql))), **more)


def counted(connection: psycopg.Connection, sql: str) -> list[tuple]:
    return [(entry["what"], entry["rows"]) for entry in count(connection, sql)]


def announced(entry: dict) -> list[str]:
    """The names an entry announces, without their identities."""
    return [text.split(" ", 1)[1] for text in entry["announces"]]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("DROP TABLE a, empty", [("table public.a", 3), ("table public.empty", 0)]),
        ('DROP TABLE A, App."T 1"', [("table public.a", 3), ('table app."T 1"', 2)]),
        ("DROP TABLE IF EXISTS nowhere, nothing.nowhere, a", [("table public.a", 3)]),
        ("DROP TABLE p", [("table public.p", 4)]),
        ("DROP TABLE app.p2", [("table app.p2", 3)]),
        ("DROP TABLE parent CASCADE", [("table public.parent", 3)]),
        (
            'ALTER TABLE a DROP X, DROP "Y z", DROP IF EXISTS y',
            [("column public.a.x", 2), ('column public.a."Y z"', 1)],
        ),
        ('ALTER TABLE app.b DROP é, DROP "a""b.c"', [('column app.b."é"', 0), ('column app.b."a""b.c"', 0)]),
        ("ALTER TABLE p DROP w", [("column public.p.w", 3)]),
        ("ALTER TABLE parent DROP x", [("column public.parent.x", 2)]),
        ("ALTER TABLE ONLY parent DROP x", [("column public.parent.x", 1)]),
        ("ALTER TABLE a ALTER x TYPE bigint", [("type of column public.a.x", 2)]),
        ("TRUNCATE a, ONLY parent", [("all rows of public.a", 3), ("all rows of public.parent", 1)]),
        (
            "TRUNCATE t, far CASCADE",
            [
                ("all rows of public.t", 2),
                ("all rows of public.far", 3),
                ("all rows of public.further", 3),
                ("all rows of public.refers", 1),
            ],
        ),
        ("TRUNCATE ONLY parent CASCADE", [("all rows of public.parent", 1)]),
        ("TRUNCATE p CASCADE", [("all rows of public.p", 4), ("all rows of public.to_p1", 1)]),
        ("DROP SCHEMA whole CASCADE", [("table whole.q", 2)]),
        (
            "DROP SCHEMA App, nothing CASCADE",
            [('table app."T 1"', 2), ("table app.b", 0), ("table app.p2", 3)],
        ),
        (
            "DELETE FROM a WHERE x = 1; UPDATE v SET x = 1",
            [("rows deleted from public.a", None), ("rows changed in v", None)],
        ),
        ("DO $$ BEGIN END $$", [("DO $$ BEGIN END $$", None)]),
        ("DROP TABLE v, m", []),
        ("ALTER TABLE v DROP x", []),
        ("SET search_path = app; DROP TABLE b, app.b", [("table b", None), ("table app.b", 0)]),
        ("DROP TABLE nodb.app.b, a.b.c.d", [("table nodb.app.b", None), ("table a.b.c.d", None)]),
        ('DROP TABLE "%s %(x)s {}", "\'; SELECT"', []),
        ("DROP EXTENSION nothing", []),
    ],
)
def test_every_kind_is_counted(shared, sql, expected):
    assert counted(shared, sql) == expected


@pytest.mark.parametrize(
    "sql",
    [
        "TRUNCATE a, parent",
        "TRUNCATE ONLY parent",
        "TRUNCATE ONLY old CASCADE",
        "TRUNCATE old CASCADE",
        "TRUNCATE t CASCADE",
        "TRUNCATE ONLY t CASCADE",
        "TRUNCATE ONLY far CASCADE",
        "TRUNCATE p CASCADE",
        "TRUNCATE p1 CASCADE",
        "TRUNCATE t, far, p CASCADE",
        "TRUNCATE far, t CASCADE; TRUNCATE t CASCADE",
        "DROP TABLE p CASCADE; DROP TABLE parent CASCADE",
        "DROP SCHEMA app, whole CASCADE",
    ],
)
def test_as_many_rows_go_as_were_counted(shared, sql):
    def everything() -> int:
        tables = shared.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text IN ('public', 'app', 'whole')"
        ).fetchall()
        return sum(shared.execute(f"SELECT count(*) FROM ONLY {name}").fetchone()[0] for (name,) in tables)

    expected = sum(entry["rows"] for entry in count(shared, sql))
    with shared.transaction(force_rollback=True):
        before = everything()
        shared.execute(sql)
        assert before - everything() == expected > 0


def test_the_entries_are_plain_data(shared):
    (entry,) = count(shared, "SELECT 1;\nDROP TABLE a")
    oid = shared.execute("SELECT 'a'::regclass::oid").fetchone()[0]
    assert entry == {
        "kind": "table",
        "what": "table public.a",
        "rows": 3,
        "line": 2,
        "estimated": False,
        "note": "",
        "announces": [f"{oid} public.a"],
    }


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("DROP TABLE p", ["public.p", "app.p2", "public.p1", "public.p2x"]),
        ("ALTER TABLE p DROP w", ["public.p.w", "app.p2.w", "public.p1.w", "public.p2x.w"]),
        ("ALTER TABLE ONLY parent DROP x", ["public.parent.x"]),
        ('ALTER TABLE a DROP "Y z"', ['public.a."Y z"']),
        ("TRUNCATE a", []),
        ("DELETE FROM a", []),
        ("ALTER TABLE a ALTER x TYPE bigint", []),
    ],
)
def test_what_is_announced(shared, sql, names):
    (entry,) = count(shared, sql)
    assert announced(entry) == names


# What a down does, and what of it nobody announced.
DOWNS = {
    "DROP TABLE p CASCADE": [],
    "DROP TABLE parent CASCADE": [],
    "ALTER TABLE p DROP w": [],
    "ALTER TABLE parent DROP x": [],
    "ALTER TABLE ONLY parent DROP x": [],
    "ALTER TABLE t RENAME TO u": [],
    "ALTER TABLE a RENAME x TO q": [],
    "ALTER TABLE a SET SCHEMA app": [],
    "ALTER TABLE empty ALTER x TYPE bigint": [],
    "TRUNCATE t CASCADE": [],
    "DROP SCHEMA app CASCADE": [],
    "DO $$ BEGIN DROP TABLE empty; END $$": ["public.empty"],
    "DO $$ BEGIN DROP TABLE empty; CREATE TABLE empty (x int); END $$": ["public.empty"],
    "DO $$ BEGIN ALTER TABLE empty DROP x; END $$": ["public.empty.x"],
    "ALTER TABLE empty RENAME TO other; DROP TABLE other": ["public.empty"],
    "SET LOCAL search_path = app; DROP TABLE b": ["app.b"],
    "ALTER TABLE empty DROP x; ALTER TABLE empty ADD x int": [],
    "CREATE TABLE new (x int); DROP TABLE new": [],
    "DROP VIEW v; DROP MATERIALIZED VIEW m": [],
}


@pytest.mark.parametrize("sql", DOWNS)
def test_the_last_look_finds_what_was_not_announced(shared, sql):
    told = count(shared, sql)
    with shared.transaction(force_rollback=True):
        before = relations(shared)
        shared.execute(sql.encode())
        found = dropped_unannounced(before, relations(shared), told)
    assert found == DOWNS[sql]


def test_relations_are_the_users_tables_and_columns(kinds):
    kinds.execute("CREATE TABLE schema_migrations (version text); CREATE TABLE schema_migrations_progress (x int)")
    kinds.execute("CREATE TABLE schema_migrations_history (x int); CREATE TABLE app.schema_migrations (x int)")
    kinds.execute("CREATE TEMP TABLE passing (x int); ALTER TABLE far ADD gone int; ALTER TABLE far DROP gone")
    found = relations(kinds)
    assert len(set(found)) == len(found)
    names = [entry.split(" ", 1)[1] for entry in found]
    assert names[:9] == [
        'app."T 1"',
        'app."T 1".x',
        "app.b",
        'app.b."é"',
        'app.b."a""b.c"',
        "app.p2",
        "app.p2.k",
        "app.p2.v",
        "app.p2.w",
    ]
    assert [name for name in names if "schema_migrations" in name or "passing" in name] == [
        "app.schema_migrations",
        "app.schema_migrations.x",
    ]
    assert [name for name in names if name.startswith("public.far.")] == ["public.far.r", "public.far.t"]
    assert not [name for name in names if name.startswith(("public.v", "public.m", "pg_", "information_schema"))]


def test_an_extensions_own_tables_go_with_it(connection):
    # The test's server has no extension with a table; one is made a member, as an extension's script does.
    connection.execute("CREATE TABLE jobs (x int); INSERT INTO jobs VALUES (1); ALTER EXTENSION plpgsql ADD TABLE jobs")
    assert counted(connection, 'DROP EXTENSION "plpgsql"') == [("table public.jobs", 1)]


def test_a_lock_is_not_waited_for(kinds, cluster, database):
    with cluster.connect(database, autocommit=False) as other:
        other.execute("LOCK TABLE a IN ACCESS EXCLUSIVE MODE; LOCK TABLE p1 IN ACCESS EXCLUSIVE MODE")
        # Of all locks only ACCESS SHARE goes together with EXCLUSIVE.
        other.execute("LOCK TABLE empty IN EXCLUSIVE MODE")
        entries = count(kinds, "DROP TABLE a, p, empty")
    assert [(entry["rows"], entry["note"], len(entry["announces"])) for entry in entries] == [
        (None, "another session has it locked", 1),
        (None, "another session has it locked", 4),
        (0, "", 1),
    ]
    assert would_lose(entries)


def test_nothing_of_it_stays(kinds):
    settings = "SELECT name, setting FROM pg_settings WHERE name LIKE '%timeout' OR name IN ('row_security', 'transaction_read_only', 'client_encoding')"
    before = kinds.execute(settings).fetchall()
    with kinds.transaction():
        kinds.execute(
            "SET LOCAL lock_timeout = '7s'; SET LOCAL statement_timeout = '30s'; INSERT INTO empty VALUES (1)"
        )
        inside = kinds.execute(settings).fetchall()
        assert counted(kinds, "DROP TABLE empty, nodb.a.b") == [("table public.empty", 1), ("table nodb.a.b", None)]
        assert relations(kinds)
        assert kinds.execute(settings).fetchall() == inside
        kinds.execute("INSERT INTO empty VALUES (2)")
    assert kinds.execute(settings).fetchall() == before
    assert counted(kinds, "DROP TABLE empty") == [("table public.empty", 2)]
    query = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation > 16383"
    assert kinds.execute(query).fetchone() == (0,)


def test_rows_hidden_by_policies_are_not_taken_for_absent(kinds, cluster, database):
    kinds.execute("DROP ROLE IF EXISTS clerk; CREATE ROLE clerk LOGIN; GRANT SELECT ON a TO clerk")
    kinds.execute("ALTER TABLE a ENABLE ROW LEVEL SECURITY; CREATE POLICY none ON a USING (false)")
    try:
        with cluster.connect(database, user="clerk") as clerk:
            assert clerk.execute("SELECT count(*) FROM a").fetchone() == (0,)
            entries = count(clerk, "DROP TABLE a, t; TRUNCATE a; ALTER TABLE a DROP x; DROP TABLE app.b")
    finally:
        kinds.execute("DROP OWNED BY clerk; DROP ROLE clerk")
    *readable, _ = entries
    assert [(entry["rows"], entry["note"]) for entry in readable] == [
        (None, "this role may not read all of its rows")
    ] * 4
    # Without USAGE on its schema not even the name can be looked up.
    assert (entries[-1]["what"], entries[-1]["rows"]) == ("table app.b", None)


def test_slow_counts_become_estimates(connection):
    connection.execute("CREATE TABLE big (x int, k int) PARTITION BY LIST (k)")
    for name, bounds in (("big1", "FOR VALUES IN (1)"), ("big2", "DEFAULT")):
        connection.execute(f"CREATE TABLE {name} PARTITION OF big {bounds} WITH (autovacuum_enabled = off)")
    connection.execute("INSERT INTO big SELECT g, 1 + g % 2 FROM generate_series(1, 400000) g")
    slow = {"count_ms": 1}
    (entry,) = count(connection, "DROP TABLE big", **slow)
    assert (entry["rows"], entry["estimated"], entry["note"]) == (None, False, "counting took too long")
    connection.execute("ANALYZE big")
    (entry,) = count(connection, "DROP TABLE big", **slow)
    assert (entry["rows"], entry["estimated"], len(entry["announces"])) == (pytest.approx(400000, rel=0.05), True, 3)
    (entry,) = count(connection, "ALTER TABLE big1 DROP x", **slow)
    assert (entry["rows"], entry["estimated"]) == (pytest.approx(200000, rel=0.05), True)
    connection.execute("UPDATE pg_class SET reltuples = 0 WHERE relname LIKE 'big_'")
    (entry,) = count(connection, "DROP TABLE big", **slow)
    assert (entry["rows"], entry["estimated"]) == (None, False)


def test_a_lost_connection_is_an_error(kinds, cluster):
    with cluster.connect() as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 15000)", [kinds.info.backend_pid])
    with pytest.raises(psycopg.OperationalError):
        count(kinds, "DROP TABLE a")


def test_a_table_dropped_meanwhile_is_left_out(kinds):
    loss = Loss("table", "a", None, 1)

    class Passing:
        """Losses that come while somebody else is at work."""

        def __iter__(self):
            yield loss
            kinds.execute("DROP TABLE a CASCADE")
            yield loss

    assert [entry["rows"] for entry in count_losses(kinds, Passing())] == [3]


def test_names_are_text_in_a_database_without_encoding(cluster):
    with cluster.connect() as admin:
        admin.execute("DROP DATABASE IF EXISTS losses_ascii")
        admin.execute("CREATE DATABASE losses_ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
        try:
            with cluster.connect("losses_ascii") as session:
                session.execute('CREATE TABLE "é" (x int)'.encode())
                assert counted(session, "DROP TABLE é") == [('table public."é"', 0)]
                assert [entry.split(" ")[1] for entry in relations(session)] == ['public."é"', 'public."é".x']
        finally:
            admin.execute("DROP DATABASE losses_ascii WITH (FORCE)")


def test_habitats_own_downs(cluster, database):
    habitat.make_roles(cluster, database)
    with cluster.connect(database, user="habitat") as session:
        habitat.apply(session)
        session.execute("INSERT INTO members (email, display_name) VALUES ('a@b.c', 'a'), ('b@b.c', 'b')")
        session.execute(
            "INSERT INTO email_verifications (member_id, email, token, expires_at) SELECT id, email, id, now() FROM members"
        )
        assert {version: counted(session, one.down.sql) for version, one in habitat.MIGRATIONS.items()} == {
            "01": [
                ("table public.treasury_entries", 0),
                ("table public.treasury_accounts", 1),
                ("DO $$ BEGIN IF to_regclass('public.schem...", None),
            ],
            "02": [("table public.members", 2)],
            "03": [("column public.treasury_entries.contribution_id", 0), ("table public.contributions", 0)],
            "04": [("table public.contribution_totals", 0), ("table public.events", 0)],
            "05": [],
            "06": [],
            "07": [("table public.email_verifications", 2)],
        }
        for version in sorted(habitat.MIGRATIONS, reverse=True):
            told = count(session, habitat.MIGRATIONS[version].down.sql)
            before = relations(session)
            habitat.revert(session, version)
            assert dropped_unannounced(before, relations(session), told) == []
        assert relations(session) == []
