"""What only a kept database has comes back as SQL: found, written, proved, imported, and imported again."""

from __future__ import annotations

import re
import stat
import tracemalloc
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import salvage, salvage_file
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, quoted

ABOUT = {"kept": "habitat_before_x", "backup": "local-x", "database": "habitat", "run": "x", "command": "psql -f x"}

ODD = '"Odd ""1"" 100%"."T % \'\nx$"'


def odd(text: str) -> str:
    """The text with names as nobody should give them."""
    names = {"ODD_TABLE": ODD, "KEY_COLUMN": '"key ""%s"""', "OTHER_COLUMN": '"Ä\n$"'}
    for word, name in names.items():
        text = text.replace(word, name)
    return text


SCHEMA = odd("""
CREATE SCHEMA "Odd ""1"" 100%";
CREATE COLLATION "Odd ""1"" 100%".other (provider = builtin, locale = 'C.UTF-8');
CREATE TYPE "Odd ""1"" 100%".mood AS ENUM ('glad', 'it''s "so"');
CREATE TABLE members (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text UNIQUE NOT NULL, loud text GENERATED ALWAYS AS (upper(email)) STORED,
  boss bigint REFERENCES members, tags text[], note jsonb, raw bytea, at timestamptz, amount numeric, ratio float8,
  feels "Odd ""1"" 100%".mood, plain json, area int4range, changed timestamptz DEFAULT now());
CREATE TABLE visits (id serial PRIMARY KEY, member bigint NOT NULL REFERENCES members ON DELETE CASCADE, place text);
CREATE TABLE pairs (a int, b text COLLATE "Odd ""1"" 100%".other, note text, PRIMARY KEY (b, a));
CREATE TABLE words (word text COLLATE "C.utf8" PRIMARY KEY, n int);
CREATE TABLE eggs (id int PRIMARY KEY, hen int NOT NULL);
CREATE TABLE hens (id int PRIMARY KEY, egg int NOT NULL REFERENCES eggs);
ALTER TABLE eggs ADD FOREIGN KEY (hen) REFERENCES hens DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE left_shoes (id int PRIMARY KEY, other int NOT NULL);
CREATE TABLE right_shoes (id int PRIMARY KEY, other int NOT NULL REFERENCES left_shoes);
ALTER TABLE left_shoes ADD CONSTRAINT "pair's ""%" FOREIGN KEY (other) REFERENCES right_shoes DEFERRABLE;
CREATE TABLE ODD_TABLE (KEY_COLUMN text PRIMARY KEY, OTHER_COLUMN text, "%(x)s" int);
CREATE TABLE codes (code text NOT NULL UNIQUE, n int);
CREATE TABLE keyless (n int, t text);
CREATE TABLE parted (id int, region text, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE parted_n PARTITION OF parted FOR VALUES IN ('north');
CREATE TABLE parted_s PARTITION OF parted FOR VALUES IN ('south');
CREATE TABLE stays (id int PRIMARY KEY, region text, of int, FOREIGN KEY (region, of) REFERENCES parted (region, id));
CREATE TABLE schema_migrations (version text PRIMARY KEY);
CREATE SEQUENCE tickets INCREMENT -2 MAXVALUE 1000 START 1000;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.changed := clock_timestamp(); RETURN NEW; END';
CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON members FOR EACH ROW EXECUTE FUNCTION touch();
CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''a trigger fired''; END';
CREATE TRIGGER never BEFORE DELETE ON parted FOR EACH ROW EXECUTE FUNCTION never();
INSERT INTO members (email, boss) VALUES ('anna@x.org', NULL), ('bert@x.org', 1), ('cleo@x.org', 2), ('dora@x.org', NULL);
INSERT INTO visits (member, place) VALUES (1, 'sea'), (2, 'hill'), (3, 'wood');
INSERT INTO pairs VALUES (1, 'a', 'x'), (2, 'a', 'y'), (1, 'b', NULL);
INSERT INTO words VALUES ('a', 1), ('B', 2), ('ä', 3), ('a b', 4), ('', 5);
INSERT INTO eggs VALUES (1, 1); INSERT INTO hens VALUES (1, 1);
INSERT INTO ODD_TABLE VALUES ('k', 'v', 1), (E'\\\\ \\n\\r''"; --? $do$', 'w', 2);
INSERT INTO codes VALUES ('x', 1), ('y', 2);
INSERT INTO keyless VALUES (1, 'a'), (1, 'a'), (2, 'b');
INSERT INTO parted VALUES (1, 'north', 'p'), (2, 'north', 'q'), (3, 'south', 'r');
INSERT INTO stays VALUES (1, 'north', 1), (2, 'south', 3);
INSERT INTO schema_migrations VALUES ('01');
""")

WRITTEN = odd("""
INSERT INTO members (email, boss, tags, note, raw, at, amount, ratio, feels, plain, area) VALUES
  (E'new\\n\\r\\\\ ''%s''; --? x', 4, ARRAY['a"b', NULL, E'\\\\', '{}'], '{"a": [1.50, null, "\\u00e4"]}', '\\x00ff27', '2026-02-10 10:00:00.123456+01',
   1.500, 'NaN', 'it''s "so"', '{"a":1,  "a":2}', '[1,5)'),
  ('eve@x.org', 5, '{}', 'null', '', 'infinity', 'NaN', '-0', NULL, NULL, 'empty');
UPDATE members SET boss = 6 WHERE id = 5;
UPDATE members SET boss = 5, ratio = 0.1::float4 WHERE id = 1;
DELETE FROM members WHERE id = 3;
INSERT INTO visits (member, place) VALUES (6, 'moor'), (5, NULL);
UPDATE visits SET member = 6 WHERE id = 2;
UPDATE pairs SET note = 'z' WHERE a = 2; DELETE FROM pairs WHERE b = 'b'; INSERT INTO pairs VALUES (3, 'A b', 'new');
UPDATE words SET n = 0 WHERE word IN ('ä', ''); DELETE FROM words WHERE word = 'a b';
INSERT INTO words VALUES ('Z', 9), ('_', 8), ('ÄÖ', 7), (E'tab\\t', 6);
BEGIN; INSERT INTO eggs VALUES (2, 2); INSERT INTO hens VALUES (2, 2); COMMIT;
BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO left_shoes VALUES (1, 7); INSERT INTO right_shoes VALUES (7, 1); COMMIT;
UPDATE ODD_TABLE SET OTHER_COLUMN = E'%s ''\\\\\\n', "%(x)s" = NULL WHERE "%(x)s" = 2;
INSERT INTO ODD_TABLE VALUES ('new % $do$ $$ :x :''y''', NULL, 3);
UPDATE codes SET code = 'z' WHERE code = 'y'; UPDATE codes SET n = 7 WHERE code = 'x';
INSERT INTO keyless VALUES (1, 'a'), (3, 'c'); DELETE FROM keyless WHERE n = 2;
ALTER TABLE parted DISABLE TRIGGER never;
UPDATE parted SET region = 'south' WHERE id = 2; DELETE FROM parted WHERE id = 99; INSERT INTO parted VALUES (4, 'north', NULL);
ALTER TABLE parted ENABLE TRIGGER never;
INSERT INTO stays VALUES (3, 'north', 4);
INSERT INTO schema_migrations VALUES ('02');
SELECT nextval('tickets'), nextval('tickets');
CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1), (2);
ALTER TABLE pairs ADD COLUMN extra int DEFAULT 5;
""")
CHANGED = {
    ODD: (1, 1, 0),
    "public.codes": (1, 1, 1),
    "public.eggs": (1, 0, 0),
    "public.hens": (1, 0, 0),
    "public.left_shoes": (1, 0, 0),
    "public.members": (2, 1, 1),
    "public.pairs": (1, 1, 1),
    "public.parted_n": (1, 0, 1),
    "public.parted_s": (1, 0, 0),
    "public.right_shoes": (1, 0, 0),
    "public.stays": (1, 0, 0),
    "public.visits": (2, 1, 1),
    "public.words": (4, 2, 1),
}


class Scene:
    """A live database restored from a backup, the kept one, and a scratch copy of the backup; all are one at first."""

    def __init__(self, cluster: Any, name: str, folder: Path) -> None:
        self.cluster, self.live = cluster, name
        self.kept, self.base = f'{name} "kept" %', f"{name}_base"
        self.file = folder / "kept.sql"

    def begin(self, schema: str) -> None:
        self.execute(self.live, schema)
        with self.cluster.connect() as admin:
            for name in (self.kept, self.base):
                admin.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE {quoted(self.live)}")

    def drop(self) -> None:
        with self.cluster.connect() as admin:
            for name in (self.kept, self.base):
                admin.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")

    def execute(self, name: str, text: str) -> None:
        with self.cluster.connect(name) as session:
            session.execute(text)

    def rows(self, name: str, text: str) -> list[tuple]:
        with self.cluster.connect(name) as session:
            return session.execute(text).fetchall()

    def salvage(self, user: str = "postgres") -> salvage.Salvaged:
        with self.cluster.connect(self.kept, user=user) as kept, self.cluster.connect(self.base, user=user) as base:
            return salvage.salvage(kept, base, self.file, ABOUT)

    def psql(self, user: str = "postgres") -> list[str]:
        """Import the file into the live database as the screen says; the words of every command's result."""
        done = self.cluster.psql(self.live, "-v", "ON_ERROR_STOP=1", "-f", str(self.file), user=user)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def imported(self) -> tuple[salvage_file.Played, list[salvage_file.Line]]:
        left: list[salvage_file.Line] = []
        with self.cluster.connect(self.live) as session:
            return salvage_file.play(session, self.file, left.append), left

    def content(self, name: str) -> dict[str, Any]:
        """Every row of every table that both have, by the columns both have."""
        found = {}
        with self.cluster.connect(name) as session, self.cluster.connect(self.base) as base:
            tables = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace >= 2200 AND relname !~ '^(pg|sql)_'"
            columns = (
                "SELECT array_agg(quote_ident(attname)) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
            )
            for (table,) in base.execute(tables).fetchall():
                (names,) = base.execute(columns, [table]).fetchone()
                text = f"SELECT ROW({', '.join(names)})::text FROM {table} ORDER BY 1"
                found[table] = [row for (row,) in session.execute(text.encode()).fetchall()]
        return found


@pytest.fixture
def scene(cluster, database, tmp_path):
    made = Scene(cluster, database, tmp_path)
    yield made
    made.drop()


def effects(words: list[str]) -> int:
    """Rows that psql says were inserted, updated or deleted."""
    return sum(int(found[1]) for line in words if (found := re.match(r"(?:INSERT 0|UPDATE|DELETE) (\d+)$", line)))


@pytest.fixture
def written(scene):
    scene.begin(SCHEMA)
    scene.execute(scene.kept, WRITTEN)
    return scene


def test_everything_written_since_the_backup_comes_back_and_nothing_a_second_time(written):
    found = written.salvage()
    numbers = {table: tuple(one.values()) for table, one in found.tables.items()}
    assert numbers == CHANGED
    kept = {**written.content(written.kept), "schema_migrations": ["(01)"]}
    keyless = kept.pop("keyless")
    assert effects(written.psql()) == sum(map(sum, CHANGED.values()))
    live = written.content(written.live)
    assert live.pop("keyless") != keyless
    assert live == kept
    assert written.rows(written.live, "SELECT last_value FROM tickets") == [(998,)]
    assert written.rows(written.live, "SELECT last_value FROM visits_id_seq") == [(5,)]
    constraints = "SELECT conname, condeferrable FROM pg_constraint WHERE contype = 'f' ORDER BY 1"
    triggers = "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"
    for text in (constraints, triggers):
        assert written.rows(written.live, text) == written.rows(written.base, text)
    assert effects(written.psql()) == 0
    assert written.content(written.live) == {**live, "keyless": written.content(written.live)["keyless"]}
    played, left = written.imported()
    assert (played.total("applied"), played.total("there"), left) == (0, sum(map(sum, CHANGED.values())), [])
    assert played.sequences == 0


def test_what_cannot_be_brought_back_is_reported(written):
    found = written.salvage()
    told = {(one["table"], one["what"]): (one["kept"], one["base"], one["columns"]) for one in found.reported}
    assert told == {
        ("public.later", "only_kept"): (2, None, []),
        ("public.keyless", "no_key"): (2, 1, []),
        ("public.pairs", "new_columns"): (None, None, ["extra"]),
    }
    text = written.file.read_text()
    assert "schema_migrations" not in text
    assert not re.search(r"^[A-Z].*keyless", text, re.MULTILINE)
    assert text.startswith("-- Rows of database habitat_before_x that backup local-x has not")
    assert stat.S_IMODE(written.file.stat().st_mode) == 0o600
    assert [path.name for path in written.file.parent.iterdir()] == ["kept.sql"]


def test_every_line_of_the_file_is_a_comment_or_a_whole_statement(written):
    written.salvage()
    for line in written.file.read_bytes().split(b"\n")[:-1]:
        assert line.startswith((b"--", b"\\set")) or line.endswith(b";"), line


def test_what_the_application_wrote_after_the_rollback_stays(written):
    written.salvage()
    written.execute(
        written.live,
        """UPDATE members SET email = 'live@x.org' WHERE id = 1; UPDATE words SET n = 77 WHERE word = 'a b';
        INSERT INTO words VALUES ('Z', 99); INSERT INTO codes VALUES ('z', 100);
        INSERT INTO members (email) OVERRIDING SYSTEM VALUE VALUES ('eve@x.org');
        INSERT INTO visits (member, place) VALUES (3, 'late')""",
    )
    before = written.content(written.live)
    played, left = written.imported()
    after = written.content(written.live)
    for table, texts in {
        "members": ["live@x.org", "eve@x.org"],
        "words": [",77)", "(Z,99)"],
        "codes": ["(z,100)"],
    }.items():
        for text in texts:
            assert [row for row in before[table] if text in row] == [row for row in after[table] if text in row] != []
    assert any("late" in row for row in after["visits"])
    assert any("cleo" in row for row in after["members"]), "it has a row of the application's that refers to it"
    assert {(one.table, one.kind) for one in left} >= {
        ("public.members", "update"),
        ("public.members", "insert"),
        ("public.members", "delete"),
        ("public.words", "delete"),
        ("public.words", "insert"),
        ("public.codes", "insert"),
    }
    assert played.total("left") == len(left)
    assert after["eggs"] == written.content(written.kept)["eggs"]


def test_psql_leaves_alone_what_has_changed_too(written):
    written.salvage()
    written.execute(
        written.live,
        "UPDATE members SET email = 'live@x.org' WHERE id = 1; DELETE FROM parted WHERE false; INSERT INTO words VALUES ('Z', 99)",
    )
    assert effects(written.psql()) == sum(map(sum, CHANGED.values())) - 2
    assert written.rows(written.live, "SELECT n FROM words WHERE word = 'Z'") == [(99,)]


def test_rows_in_an_order_that_no_key_tells(scene):
    """Parents with higher keys than their children, values that move from row to row, and a whole chain that goes."""
    scene.begin(
        """CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE, tag text UNIQUE);
        INSERT INTO tree VALUES (1, NULL, 'a'), (2, 1, 'b'), (3, 2, 'c'), (4, 4, 'self')"""
    )
    scene.execute(
        scene.kept,
        """DELETE FROM tree WHERE id IN (1, 4); INSERT INTO tree VALUES (9, NULL, 'b'), (8, 9, 'c'), (7, 8, 'a'), (6, 6, 'z')""",
    )
    found = scene.salvage()
    assert found.tables == {"public.tree": {"insert": 4, "update": 0, "delete": 4}}
    scene.psql()
    assert scene.content(scene.live) == scene.content(scene.kept)


def test_values_that_are_handed_on(scene):
    scene.begin(
        "CREATE TABLE t (id int PRIMARY KEY, tag text UNIQUE); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')"
    )
    scene.execute(
        scene.kept,
        "DELETE FROM t WHERE id = 3; UPDATE t SET tag = 'c' WHERE id = 2; UPDATE t SET tag = 'b' WHERE id = 1",
    )
    scene.salvage()
    scene.psql()
    assert scene.content(scene.live) == scene.content(scene.kept)


def test_what_has_no_order_is_told_and_the_file_is_not_taken_for_proved(scene):
    scene.begin("CREATE TABLE t (id int PRIMARY KEY, tag text UNIQUE); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    scene.execute(
        scene.kept, "UPDATE t SET tag = CASE tag WHEN 'a' THEN 'x' ELSE 'a' END; UPDATE t SET tag = 'b' WHERE id = 1"
    )
    with pytest.raises(BackupError, match=r"2 rows .* table public\.t.*kept\.sql\.part, and is not proved"):
        scene.salvage()
    assert not scene.file.exists()
    part = scene.file.with_name("kept.sql.part")
    assert stat.S_IMODE(part.stat().st_mode) == 0o600


def test_values_of_a_later_migration_are_told(scene):
    scene.begin("CREATE TABLE t (id int PRIMARY KEY, n int)")
    scene.execute(scene.kept, "ALTER TABLE t ALTER n TYPE text; INSERT INTO t VALUES (1, '5'), (2, 'five')")
    with pytest.raises(BackupError, match=r'table public\.t \(invalid input syntax for type integer: "five"\)'):
        scene.salvage()


def test_a_copy_that_is_not_equal_afterwards_fails_the_proof(scene, monkeypatch):
    scene.begin("CREATE TABLE t (id int PRIMARY KEY, n int)")
    scene.execute(scene.kept, "INSERT INTO t VALUES (1, 1), (2, 2)")
    whole = salvage.lines
    monkeypatch.setattr(salvage, "lines", lambda *given: list(whole(*given))[:1])
    with pytest.raises(
        BackupError, match=r"is not equal to the kept database in table public\.t; the file is not proved"
    ):
        scene.salvage()
    assert not scene.file.exists()


def test_nothing_written_is_no_file(scene):
    scene.begin(SCHEMA)
    found = scene.salvage()
    assert (found.file, found.tables, found.reported) == (None, {}, [])
    assert list(scene.file.parent.iterdir()) == []


def test_only_a_sequence_went_on(scene):
    scene.begin("CREATE SEQUENCE s; SELECT nextval('s')")
    scene.execute(scene.kept, "SELECT setval('s', 40)")
    assert scene.salvage().sequences == 1
    scene.execute(scene.live, "SELECT setval('s', 50)")
    scene.psql()
    assert scene.rows(scene.live, "SELECT last_value FROM s") == [(50,)]


def test_an_owner_who_is_no_superuser_salvages_and_imports(scene, cluster):
    role = f"owner_{scene.live}"
    scene.execute("postgres", f"CREATE ROLE {role} LOGIN")
    try:
        scene.execute("postgres", f"ALTER DATABASE {quoted(scene.live)} OWNER TO {role}")
        with cluster.connect(scene.live) as session:
            session.execute(f"ALTER SCHEMA public OWNER TO {role}; SET SESSION AUTHORIZATION {role}")
            session.execute(
                SCHEMA.replace(
                    "CREATE SCHEMA",
                    f"RESET SESSION AUTHORIZATION; GRANT CREATE ON DATABASE {quoted(scene.live)} TO {role}; SET SESSION AUTHORIZATION {role}; CREATE SCHEMA",
                    1,
                )
            )
        scene.begin("SELECT 1")
        scene.execute(scene.kept, WRITTEN.replace("CREATE TABLE later", f"SET ROLE {role}; CREATE TABLE later"))
        scene.salvage(role)
        scene.psql(role)
        assert scene.content(scene.live)["members"] == scene.content(scene.kept)["members"]
    finally:
        scene.drop()
        with cluster.connect(scene.live) as session:
            session.execute(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}")
        scene.execute("postgres", f"DROP ROLE {role}")


@pytest.mark.long
def test_a_large_table_takes_no_more_memory_than_a_small_one(scene):
    scene.begin("CREATE TABLE big (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), t text)")
    scene.execute(scene.kept, "INSERT INTO big (t) SELECT repeat(i::text, 50) FROM generate_series(1, 20000) i")
    tracemalloc.start()
    try:
        found = scene.salvage()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.tables == {"public.big": {"insert": 20000, "update": 0, "delete": 0}}
    assert found.size > 6_000_000
    assert peak < 5_000_000
    scene.psql()
    assert scene.content(scene.live) == scene.content(scene.kept)


def test_an_import_that_fails_leaves_nothing(scene):
    scene.begin("CREATE TABLE t (id int PRIMARY KEY, n int)")
    scene.execute(scene.kept, "INSERT INTO t VALUES (1, 1), (2, 2)")
    scene.salvage()
    scene.file.write_bytes(scene.file.read_bytes().replace(b'"n") OVERRIDING', b'"gone") OVERRIDING'))
    with pytest.raises(psycopg.Error):
        scene.imported()
    assert scene.rows(scene.live, "SELECT count(*) FROM t") == [(0,)]
