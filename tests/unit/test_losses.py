"""What a down migration would drop or change, told from its text."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import split
from ansible_collections.habitat.runbook.plugins.module_utils.losses import (
    Loss,
    dropped_unannounced,
    find_losses,
    would_lose,
)
from hypothesis import example, given
from hypothesis import strategies as st

from tests.integration.habitat import MIGRATIONS


def losses(sql: str) -> list[Loss]:
    return find_losses(list(split(sql)))


def told(sql: str) -> list[str]:
    """Every loss as "kind table.column", with a mark for what the text leaves open."""
    return [
        f"{loss.kind} {loss.table or loss.command}{' ' + loss.column if loss.column else ''}"
        + ("" if loss.certain or loss.kind == "unknown" else " ?")
        for loss in losses(sql)
    ]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("DROP TABLE a", ["table a"]),
        ("drop\ntable if  exists Public . Members;", ["table Public.Members"]),
        ('DROP TABLE "a b", s."c""d.e",f CASCADE', ['table "a b"', 'table s."c""d.e"', "table f"]),
        ("DROP /* TABLE x, */ TABLE -- y,\n a/**/,b RESTRICT", ["table a", "table b"]),
        ("DROP TABLE Ä, \u212a", ["table Ä", "table \u212a"]),
        ('DROP TABLE U&"d\\0061t\\+000061", u&"d!0061!!\\" UESCAPE \'!\'', ['table "data"', 'table "da!\\"']),
        ('DROP TABLE U&"a\\0022b"', ['table "a""b"']),
        ("DROP TABLE cascade CASCADE", ["table cascade"]),
        ("DROP TABLE IF EXISTS if", ["table if"]),
        ('DROP TABLE "if", "table"', ['table "if"', 'table "table"']),
        ("DROP TABLE a; DROP TABLE b", ["table a", "table b"]),
        ("ALTER TABLE t DROP COLUMN c", ["column t c"]),
        ("ALTER TABLE t DROP c", ["column t c"]),
        ('alter table if exists only s.t * drop column if exists "C d" cascade', ['column s.t "C d"']),
        (
            "ALTER TABLE t ADD x numeric(3, 1) DEFAULT (1), DROP CONSTRAINT k, DROP a, ADD CHECK (b IN (1, 2)), DROP COLUMN b",
            ["column t a", "column t b"],
        ),
        ("ALTER TABLE t ALTER c DROP DEFAULT, ALTER COLUMN c DROP NOT NULL, DROP d", ["column t d"]),
        ('ALTER TABLE t DROP "a,b", DROP U&"\\0063"', ['column t "a,b"', 'column t "c"']),
        ("ALTER TABLE t ALTER c TYPE int USING f(c, ARRAY[1, 2]), DROP d", ["type t c", "column t d"]),
        ("ALTER TABLE t ADD CHECK (f(a, drop) > ARRAY[1, alter]), DROP d", ["column t d"]),
        ("ALTER TABLE t ADD CHECK ((a) > 1 AND b[1] > ARRAY[c, drop][1]), DROP d", ["column t d"]),
        ("ALTER TABLE t ALTER COLUMN c SET DATA TYPE text", ["type t c"]),
        ("ALTER TABLE t ALTER type TYPE int", ["type t type"]),
        ("TRUNCATE a", ["truncate a"]),
        (
            'TRUNCATE TABLE ONLY a, s."B" *, c RESTART IDENTITY CASCADE',
            ["truncate a", 'truncate s."B"', "truncate c"],
        ),
        ("TRUNCATE a CONTINUE IDENTITY RESTRICT", ["truncate a"]),
        ('DROP SCHEMA IF EXISTS a, "B" CASCADE', ["schema a", 'schema "B"']),
        ("DROP EXTENSION hstore", ["extension hstore"]),
        ("DROP EXTENSION hstore CASCADE", ["extension hstore", "unknown DROP EXTENSION hstore CASCADE"]),
        ("DELETE FROM s.t WHERE a = 1", ["rows s.t"]),
        ("delete from only t", ["rows t"]),
        ("WITH gone AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM gone", ["rows a"]),
        ("WITH x AS (SELECT 1) DELETE FROM t USING x", ["rows t"]),
        ("UPDATE ONLY s.t AS u SET a = 1", ["update s.t"]),
        ("WITH x AS (UPDATE t SET a = 1 RETURNING *) SELECT count(*) FROM x", ["update t"]),
        ("WITH x AS (SELECT 1) UPDATE t SET a = 1", ["update t"]),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2", ["update t"]),
        (
            "MERGE INTO ONLY s.t USING u ON t.a = u.a WHEN MATCHED AND u.x THEN DELETE WHEN MATCHED THEN UPDATE SET b = 1",
            ["rows s.t", "update s.t"],
        ),
        ("MERGE INTO t USING u ON t.a = u.a WHEN NOT MATCHED THEN INSERT VALUES (1)", []),
        ("COPY (DELETE FROM t RETURNING *) TO STDOUT", ["rows t"]),
        ("EXPLAIN ANALYZE UPDATE t SET a = 1", ["update t"]),
    ],
)
def test_what_is_lost(sql, expected):
    assert told(sql) == expected


@pytest.mark.parametrize(
    "sql",
    [
        "DO $$ BEGIN DROP TABLE a; END $$",
        "CALL purge()",
        "EXECUTE purge",
        "DROP OWNED BY app",
        "DROP TYPE mood CASCADE",
        "DROP DOMAIN email CASCADE",
        "DROP COLLATION c CASCADE",
        "DROP PROCEDURAL LANGUAGE l CASCADE",
        "DROP ACCESS METHOD m CASCADE",
        "ALTER TYPE pair DROP ATTRIBUTE a",
        "ALTER TYPE pair ALTER ATTRIBUTE a TYPE int",
        "ALTER EXTENSION hstore UPDATE",
        "SELECT purge()",
        "SELECT app.now()",
        'SELECT now(), "now"()',
        "SELECT lo_unlink(1)",
        # The Kelvin sign is no K to PostgreSQL.
        "SELECT pg_advisory_loc\u212a(1)",
        "WITH a AS (SELECT purge (1)) SELECT * FROM a",
        "(SELECT purge())",
        "VALUES (purge())",
        "EXPLAIN ANALYZE SELECT purge()",
        # Grammar this reader does not know must not pass as harmless.
        "DROP TABLE a b",
        "DROP TABLE 'a'",
        "DROP TABLE a,",
        "TRUNCATE a b",
        "DROP TABLE",
        'DROP TABLE U&"\\D83D\\DE00"',
        'DROP TABLE U&"\\+FFFFFF"',
        'DROP TABLE U&"x" UESCAPE',
        "TRUNCATE ONLY (a)",
        "ALTER TABLE ONLY (a) DROP b",
        "ALTER TABLE a DROP",
        "DELETE FROM ONLY (a)",
    ],
)
def test_what_nobody_can_tell(sql):
    *_, loss = losses(sql)
    assert (loss.kind, loss.table, loss.column, loss.certain) == ("unknown", "", None, False)
    assert loss.command == sql[:40] + ("..." if len(sql) > 40 else "")


@pytest.mark.parametrize(
    "sql",
    [
        "DROP VIEW v CASCADE; DROP MATERIALIZED VIEW m; DROP FOREIGN TABLE f; DROP INDEX i; DROP SEQUENCE s",
        "DROP FUNCTION f(integer, text) CASCADE; DROP PROCEDURE p; DROP POLICY p ON t; DROP TRIGGER t ON t CASCADE",
        "DROP TYPE mood; DROP DOMAIN email RESTRICT; DROP SCHEMA s; DROP SCHEMA s RESTRICT; DROP RULE r ON t",
        "ALTER TABLE p DETACH PARTITION q; ALTER TABLE t DROP CONSTRAINT IF EXISTS k CASCADE",
        "ALTER TABLE t RENAME COLUMN a TO b; ALTER TABLE t RENAME TO u; ALTER TABLE t SET SCHEMA s",
        "ALTER TABLE t ADD COLUMN delete_at date, ALTER CONSTRAINT k DEFERRABLE, DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE t ALTER c DROP IDENTITY IF EXISTS, ALTER d SET DEFAULT 'x', ALTER e SET STATISTICS 5",
        "ALTER TABLE ALL IN TABLESPACE a SET TABLESPACE b; ALTER TYPE mood ADD VALUE 'x'; ALTER TYPE a RENAME TO b",
        "CREATE TABLE t (a int REFERENCES u ON DELETE CASCADE ON UPDATE SET NULL)",
        "CREATE TRIGGER t BEFORE UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE RULE r AS ON DELETE TO t DO INSTEAD DELETE FROM u",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC DELETE FROM t; SELECT 1; END",
        "CREATE POLICY p ON t FOR DELETE USING (true); GRANT DELETE, UPDATE, TRUNCATE ON t TO app",
        "INSERT INTO t (a) VALUES ('DELETE FROM t') ON CONFLICT DO NOTHING",
        "SELECT * FROM t FOR UPDATE; SELECT 1 FROM t FOR NO KEY UPDATE OF t",
        "SELECT pg_catalog.set_config('a.b', '', false); SELECT setval('s', (SELECT max(a) FROM t))",
        "SELECT CAST(a AS numeric(3, 1)), b::varchar(3) FROM t AS u(a, b) WHERE a IN (1) AND EXISTS (SELECT 1)",
        "COMMENT ON TABLE t IS 'DROP TABLE t'; LOCK TABLE t; SET search_path = s; REASSIGN OWNED BY a TO b",
        'CREATE TABLE "drop table x" ("truncate" int); ALTER TABLE "a drop b" ADD c int',
        "PREPARE p AS DELETE FROM t",
    ],
)
def test_what_loses_nothing(sql):
    assert told(sql) == []


def test_only_and_cascade_are_told():
    (only, plain) = losses("TRUNCATE ONLY a, b CASCADE")
    assert (only.only, only.cascade, plain.only) == (True, True, False)
    assert losses("ALTER TABLE ONLY a DROP b")[0].only
    assert not losses("ALTER TABLE a DROP b")[0].only


def test_the_line_is_that_of_the_name():
    sql = "-- first\nDROP TABLE a,\n\n  b;\nALTER TABLE t\n  DROP x,\n  DROP y;\nDO $$\n$$;"
    assert [(loss.table or loss.command, loss.line) for loss in losses(sql)] == [
        ("a", 2),
        ("b", 4),
        ("t", 6),
        ("t", 7),
        ("DO $$ $$", 8),
    ]


@pytest.mark.parametrize(
    "setting",
    [
        "SET search_path = app",
        "SET LOCAL search_path TO app",
        "set /* c */ schema 'app'",
        "SET SESSION SCHEMA 'app'",
        "SELECT set_config('search_path', 'app', true)",
        "RESET ALL",
        "DISCARD ALL",
    ],
)
def test_behind_another_search_path_only_full_names_are_sure(setting):
    sql = f'DROP TABLE a; {setting}; DROP TABLE a, s.a, "s.a"; ALTER TABLE a DROP b; DROP SCHEMA s CASCADE'
    assert told(sql) == ["table a", "table a ?", "table s.a", 'table "s.a" ?', "column a b ?", "schema s"]


def test_a_functions_own_search_path_changes_nothing():
    sql = "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = '' AS 'SELECT 1'; DROP TABLE a"
    assert told(sql) == ["table a"]


def test_strings_follow_the_setting_in_force():
    sql = "SET standard_conforming_strings = off; INSERT INTO t VALUES ('\\'); DELETE FROM t; --')"
    assert told(sql) == []
    assert told("INSERT INTO t VALUES ('\\'); DELETE FROM t; --')") == ["rows t"]


NAMES = st.one_of(
    st.from_regex(r"\A[a-zA-Z_äé][a-zA-Z0-9_$é]{0,12}\Z").filter(lambda name: name.lower() not in ("only", "if")),
    st.text(st.characters(exclude_characters="\0\r", codec="utf-8"), min_size=1).map(
        lambda name: '"' + name.replace('"', '""') + '"'
    ),
)
QUALIFIED = st.lists(NAMES, min_size=1, max_size=3).map(".".join)
BLANKS = st.sampled_from([" ", "\n", " /* DROP TABLE z */ ", " -- TRUNCATE z;\n", "\t/* /* ; */ */"])


@given(st.lists(QUALIFIED, min_size=1, max_size=5), BLANKS, st.sampled_from(["", "CASCADE", "restrict"]))
@example(["cascade"], " ", "CASCADE")
def test_every_name_of_a_list_comes_back_as_written(names, blank, behind):
    commas = f"{blank},{blank}".join(names)
    for command, kind in (("DROP TABLE", "table"), ("DROP TABLE IF EXISTS", "table"), ("TRUNCATE TABLE", "truncate")):
        found = losses(blank.join([*command.split(), commas, behind]) + ";")
        assert [(loss.kind, loss.table) for loss in found] == [(kind, name) for name in names]


@given(QUALIFIED, st.lists(NAMES, min_size=1, max_size=5), BLANKS)
def test_every_dropped_column_comes_back_as_written(table, columns, blank):
    actions = ",".join(f"{blank}DROP{blank}COLUMN{blank}{column}{blank}" for column in columns)
    assert [(loss.table, loss.column) for loss in losses(f"ALTER TABLE{blank}{table}{blank}{actions}")] == [
        (table, column) for column in columns
    ]


LOSSY = st.lists(
    st.sampled_from(
        ["DROP TABLE a;", "DELETE FROM a;", "UPDATE a SET b = 1;", "TRUNCATE a;", "DO '';", "\n", " ' ", "x"]
    )
).map("".join)


@given(LOSSY)
def test_text_in_strings_comments_and_names_is_never_a_loss(text):
    string = text.replace("'", "''")
    name = text or "x"
    line = text.replace("\n", " ")
    assert told(f"INSERT INTO t VALUES ('{string}', E'{string}', $q${text}$q$)") == []
    assert told(f"COMMENT ON TABLE t IS '{string}'; -- {line}\n/* {text} */ SELECT '{string}' AS \"{name}\"") == []


@given(
    st.lists(
        st.sampled_from(
            [
                "DROP",
                "TABLE",
                "ALTER",
                "TRUNCATE",
                "a",
                "b",
                ",",
                ".",
                "(",
                ")",
                "COLUMN",
                "TYPE",
                "'s'",
                '"q"',
                "ONLY",
                "DELETE",
                "FROM",
                "UPDATE",
                "SELECT",
                "MERGE",
                "INTO",
                "1",
                "UESCAPE",
                'U&"x"',
            ]
        ),
        min_size=1,
    )
)
def test_no_order_of_words_makes_it_fail(words):
    text = " ".join(words)
    if text.count("(") == text.count(")") and ")" not in text.split("(")[0]:
        try:
            statements = list(split(text))
        except ValueError:
            return
        find_losses(statements)


def test_habitats_own_downs():
    assert {version: told(migration.down.sql) for version, migration in MIGRATIONS.items()} == {
        "01": [
            "table treasury_entries",
            "table treasury_accounts",
            "unknown DO $$ BEGIN IF to_regclass('public.schem...",
        ],
        "02": ["table members"],
        "03": ["column treasury_entries contribution_id", "table contributions"],
        "04": ["table contribution_totals", "table events"],
        "05": [],
        "06": [],
        "07": ["table email_verifications"],
    }


@pytest.mark.parametrize(
    ("rows", "expected"), [([], False), ([0, 0], False), ([0, 1], True), ([None], True), ([0, None], True)]
)
def test_what_needs_to_be_accepted(rows, expected):
    assert would_lose([{"rows": number} for number in rows]) is expected


def announced(*entries: str) -> list[dict]:
    return [{"kind": "unknown", "rows": None}, {"kind": "table", "announces": []}, {"announces": list(entries)}]


BEFORE = ["7 public.a", "7.1 public.a.x", "7.2 public.a.y", "8 public.b", "8.1 public.b.x"]


@pytest.mark.parametrize(
    ("after", "told", "expected"),
    [
        (BEFORE, [], []),
        ([*BEFORE, "9 public.c"], [], []),
        (BEFORE[3:], [], ["public.a"]),
        (BEFORE[3:], ["7 public.a"], []),
        (BEFORE[3:], ["public.a"], []),
        (BEFORE[3:], ["7 public.old_name"], []),
        (BEFORE[3:], ["8 public.b"], ["public.a"]),
        (BEFORE[3:], ["7.1 public.a.x"], ["public.a"]),
        ([], ["8 public.b"], ["public.a"]),
        ([BEFORE[0], *BEFORE[2:]], [], ["public.a.x"]),
        ([BEFORE[0], *BEFORE[2:]], ["7.1 public.a.x"], []),
        ([BEFORE[0], *BEFORE[2:]], ["7.2 public.a.y"], ["public.a.x"]),
        ([BEFORE[0], *BEFORE[2:]], ["7 public.a"], []),
        (["7 public.z", "7.1 public.z.x", "7.2 public.z.w", *BEFORE[3:]], [], []),
        # Dropped and made anew under the same name: the rows are gone.
        (["9 public.a", "9.1 public.a.x", "9.2 public.a.y", *BEFORE[3:]], [], ["public.a"]),
        (["17 public.a", "17.1 public.a.x", *BEFORE[3:]], ["7 public.a"], []),
    ],
)
def test_what_went_without_being_announced(after, told, expected):
    assert dropped_unannounced(BEFORE, after, announced(*told)) == expected


NAMED = ["public.a", "public.a.x", 'public.a."x.y"', 'public."a.x"']


@pytest.mark.parametrize(
    ("after", "told", "expected"),
    [
        (NAMED[3:], [], ["public.a"]),
        (NAMED[3:], ["public.a"], []),
        ([NAMED[0], NAMED[3]], [], ["public.a.x", 'public.a."x.y"']),
        ([NAMED[0], NAMED[3]], ['public.a."x.y"'], ["public.a.x"]),
        (NAMED[:3], ["public.a"], ['public."a.x"']),
    ],
)
def test_names_alone_can_be_compared_too(after, told, expected):
    assert dropped_unannounced(NAMED, after, announced(*told)) == expected
