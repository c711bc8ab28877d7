"""Rows written since a backup, told from xmin, against what a session that still has the snapshot sees."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.row_versions import Written
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import count_tables, readable_tables
from ansible_collections.habitat.runbook.plugins.module_utils.written_since import count_written

TABLES = ("members", "contributions")


class Bench:
    """A database, backups of it (a manifest and a session that keeps its snapshot), and what was written since."""

    def __init__(self, cluster: Any, database: str) -> None:
        self.cluster, self.database = cluster, database
        self.sessions: list[psycopg.Connection] = []
        # Whoever forgets that a witness still holds its locks fails, instead of waiting for ever.
        self.main = self.connect(options="-c lock_timeout=20s")
        for name in TABLES:
            self.main.execute(f"CREATE TABLE {name} (id int, note text); INSERT INTO {name} VALUES (1), (2), (3), (4)")

    def connect(self, **more: Any) -> psycopg.Connection:
        self.sessions.append(self.cluster.connect(self.database, **more))
        return self.sessions[-1]

    def backup(self) -> tuple[dict[str, Any], psycopg.Connection]:
        witness = self.connect()
        tables = readable_tables(witness)
        witness.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = ''")
        row = witness.execute("""
            SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text,
                   ARRAY(SELECT pg_snapshot_xip(s)::text), (SELECT system_identifier FROM pg_control_system())::text,
                   (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),
                   current_setting('server_version') FROM pg_current_snapshot() s""").fetchone()
        snapshot = dict(zip(("xmin", "xmax", "xip", "system_identifier", "database_oid"), row, strict=False))
        counted = dict(count_tables(witness, tables))
        return {"snapshot": snapshot, "tables": counted, "server_version": row[5]}, witness

    def manifest(self) -> dict[str, Any]:
        """A backup whose witness holds no lock any more."""
        manifest, witness = self.backup()
        witness.close()
        return manifest

    def written(self, *manifests: dict[str, Any], **more: Any) -> list[Written]:
        with self.cluster.connect(self.database, **more) as connection:
            return count_written(connection, list(manifests))

    def close(self) -> None:
        for session in self.sessions:
            session.close()


@pytest.fixture
def bench(cluster: Any, database: str) -> Iterator[Bench]:
    made = Bench(cluster, database)
    yield made
    made.close()


def as_witnessed(bench: Bench, witness: psycopg.Connection, table: str) -> tuple[int, int, int]:
    """Rows the witness does not see, rows it sees that are gone: by ctid and xmin, which name a row version.

    Right as long as no command moves row versions, and no ctid is used anew: the witness keeps dead ones from vacuum.
    """
    query = f"SELECT ctid::text, xmin::text FROM public.{table}"
    then, now = set(witness.execute(query).fetchall()), set(bench.main.execute(query).fetchall())
    return len(now), len(now - then), len(then - now)


def line(written: Written, table: str) -> dict[str, Any] | None:
    return next((one for one in written.tables if one["table"] == table), None)


def check(bench: Bench, written: Written, witness: psycopg.Connection) -> None:
    """What was written is what the witness misses, apart from what is said to be uncertain."""
    assert written.exact
    assert written.uncounted == 0
    missed = 0
    for table in TABLES:
        now, newer, gone = as_witnessed(bench, witness, table)
        found = line(written, f"public.{table}") or {"now": now, "newer": 0, "gone": 0}
        assert found["now"] == now
        assert newer <= found["newer"] <= newer + written.uncertain
        assert found["newer"] - newer == found["gone"] - gone
        missed += newer
    assert missed <= written.rows <= missed + written.uncertain


def test_nothing_was_written(bench):
    manifest = bench.manifest()
    assert bench.written(manifest) == [Written(True, [], 0)]
    assert bench.written() == []


def test_inserts_updates_and_deletes_are_counted(bench):
    manifest, witness = bench.backup()
    bench.main.execute("INSERT INTO members SELECT generate_series(5, 9)")
    bench.main.execute("UPDATE members SET note = 'x' WHERE id <= 2")
    bench.main.execute("DELETE FROM members WHERE id = 3")
    [written] = bench.written(manifest)
    assert written == Written(
        True, [{"table": "public.members", "then": 4, "now": 8, "newer": 7, "gone": 3}], rows=7, uncertain=0
    )
    check(bench, written, witness)


def test_many_backups_take_one_pass(bench):
    backups = []
    for number in range(5, 10):
        backups.append(bench.manifest())
        bench.main.execute("INSERT INTO members VALUES (%s)", [number])
    assert [written.rows for written in bench.written(*backups)] == [5, 4, 3, 2, 1]


def test_all_numbers_are_of_one_moment(bench):
    manifest = bench.manifest()
    bench.main.execute("INSERT INTO contributions VALUES (5)")

    class Meanwhile(psycopg.Cursor):
        """Somebody commits between the count of the first table and that of the second."""

        def execute(self, query: Any, *more: Any, **options: Any) -> Any:
            if isinstance(query, bytes) and b'FROM ONLY "public"."members"' in query:
                bench.main.execute("INSERT INTO members VALUES (5); INSERT INTO contributions VALUES (6)")
            return super().execute(query, *more, **options)

    assert bench.written(manifest, cursor_factory=Meanwhile)[0].rows == 1
    assert bench.written(manifest)[0].rows == 3


def test_transactions_in_progress_at_the_snapshot(bench):
    committing, aborting, early = bench.connect(), bench.connect(), bench.connect()
    for session in (early, committing, aborting):
        session.execute(
            "BEGIN; INSERT INTO members VALUES (10), (11); UPDATE contributions SET note = 'y' WHERE id = 0"
        )
    early.execute("COMMIT")
    bench.main.execute("SELECT pg_current_xact_id()")  # else the snapshot ends below those in progress
    manifest, witness = bench.backup()
    assert len(manifest["snapshot"]["xip"]) == 2
    aborting.execute("ROLLBACK")
    committing.execute("INSERT INTO members VALUES (12); COMMIT")
    [written] = bench.written(manifest)
    # What the one that had ended wrote is below the snapshot's xmin, so it is certain as well.
    assert (written.rows, written.uncertain) == (3, 0)
    check(bench, written, witness)


@pytest.mark.parametrize("end", ["RELEASE s; COMMIT", "COMMIT"])
@pytest.mark.parametrize("between", [False, True])
def test_subtransactions_in_progress_at_the_snapshot(bench, end, between):
    session = bench.connect()
    session.execute("BEGIN; INSERT INTO members VALUES (10); SAVEPOINT s; INSERT INTO members VALUES (11)")
    session.execute("SAVEPOINT t; INSERT INTO members VALUES (12); RELEASE t")
    if between:
        bench.main.execute("INSERT INTO contributions VALUES (20), (21)")
    bench.main.execute("SELECT pg_current_xact_id()")
    manifest, witness = bench.backup()
    assert len(manifest["snapshot"]["xip"]) == 1
    session.execute(f"INSERT INTO members VALUES (13); {end}")
    query = "SELECT count(*) FROM members WHERE NOT pg_visible_in_snapshot(xmin::text::xid8, %s)"
    told = manifest["snapshot"]
    text = f"{told['xmin']}:{told['xmax']}:{','.join(told['xip'])}"
    assert bench.main.execute(query, [text]).fetchone()[0] < 4  # PostgreSQL's own function takes two for older
    [written] = bench.written(manifest)
    check(bench, written, witness)
    members = line(written, "public.members")
    assert members and members["newer"] == 4  # 4 more rows than in the backup: none can have been in it
    assert written.uncertain == (2 if between else 0)


def test_an_exception_block_in_progress_at_the_snapshot(bench):
    session = bench.connect()
    session.execute("BEGIN; SELECT pg_current_xact_id()")
    session.execute("DO $$ BEGIN UPDATE members SET note = 'z'; EXCEPTION WHEN others THEN NULL; END $$")
    bench.main.execute("SELECT pg_current_xact_id()")
    manifest, witness = bench.backup()
    session.execute("COMMIT")
    [written] = bench.written(manifest)
    check(bench, written, witness)
    assert written.rows == 4
    assert written.uncertain == 4  # as many rows as before: whoever wrote them could have ended before the snapshot


@pytest.mark.parametrize(
    "command", ["VACUUM FREEZE", "VACUUM FULL", "VACUUM (FULL, FREEZE)", "CLUSTER members USING by_id", "VACUUM"]
)
def test_commands_that_move_or_freeze_rows(bench, command):
    bench.main.execute("CREATE INDEX by_id ON members (id)")
    bench.main.execute("VACUUM FREEZE contributions")
    running = bench.connect()
    running.execute("BEGIN; INSERT INTO members VALUES (10), (11)")
    manifest, witness = bench.backup()
    running.execute("COMMIT")
    bench.main.execute("INSERT INTO contributions VALUES (5); UPDATE members SET note = 'x' WHERE id = 1")
    before = bench.written(manifest)
    check(bench, before[0], witness)
    witness.close()
    bench.main.execute(command)
    assert bench.written(manifest) == before
    assert before[0].rows == 4


def test_a_row_that_is_locked_is_not_a_newer_one(bench):
    manifest = bench.manifest()
    lockers = [bench.connect(), bench.connect()]
    for session in lockers:
        session.execute("BEGIN; SELECT * FROM members FOR SHARE")
    assert bench.written(manifest)[0].rows == 0


def test_tables_that_came_and_went(bench):
    bench.main.execute('CREATE TABLE empty_then (id int); CREATE TABLE "Odd ""name"" 100%s" (id int)')
    manifest = bench.manifest()
    bench.main.execute("DROP TABLE members; DROP TABLE empty_then; CREATE TABLE empty_now (id int)")
    bench.main.execute("CREATE TABLE fresh AS SELECT generate_series(1, 3)")
    bench.main.execute('INSERT INTO "Odd ""name"" 100%s" VALUES (1)')
    [written] = bench.written(manifest)
    assert written.tables == [
        {"table": 'public."Odd ""name"" 100%s"', "then": 0, "now": 1, "newer": 1, "gone": 0},
        {"table": "public.fresh", "then": None, "now": 3, "newer": 3, "gone": 0},
        {"table": "public.members", "then": 4, "now": None, "newer": 0, "gone": 4},
    ]
    assert written.rows == 4


def test_partitions_are_counted_as_the_tables_they_are(bench):
    bench.main.execute(
        "CREATE TABLE p (id int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20); INSERT INTO p VALUES (1), (11)"
    )
    manifest = bench.manifest()
    bench.main.execute("UPDATE p SET id = 12 WHERE id = 1")
    assert bench.written(manifest)[0].tables == [
        {"table": "public.p1", "then": 1, "now": 0, "newer": 0, "gone": 1},
        {"table": "public.p2", "then": 1, "now": 2, "newer": 1, "gone": 0},
    ]


def test_the_ledger_is_left_out(bench):
    names = ("schema_migrations", "schema_migrations_progress", "schema_migrations_history")
    for name in names:
        bench.main.execute(f"CREATE TABLE {name} (version text)")
    manifest = bench.manifest()
    for name in names:
        bench.main.execute(f"INSERT INTO {name} VALUES ('07')")
    assert bench.written(manifest)[0].tables == []
    manifest["snapshot"]["database_oid"] = 1
    assert bench.written(manifest)[0].tables == []


def test_a_renamed_database_is_still_the_same(bench, cluster):
    manifest = bench.manifest()
    bench.main.execute("INSERT INTO members VALUES (5)")
    bench.close()
    kept = f"{bench.database}_before"
    with cluster.connect() as admin:
        admin.execute(f"ALTER DATABASE {bench.database} RENAME TO {kept}")
    try:
        with cluster.connect(kept) as connection:
            [written] = count_written(connection, [manifest])
        assert (written.exact, written.rows) == (True, 1)
    finally:
        with cluster.connect() as admin:
            admin.execute(f"ALTER DATABASE {kept} RENAME TO {bench.database}")


@pytest.mark.parametrize(
    "change",
    [
        {"system_identifier": "1"},
        {"database_oid": 1},
        {"xmax": str(2**40)},
    ],
)
def test_another_database_is_compared_by_digests(bench, change):
    bench.main.execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)")
    manifest = bench.manifest()
    same = {**manifest, "snapshot": dict(manifest["snapshot"])}
    manifest["snapshot"].update(change)
    assert bench.written(manifest) == [Written(False, [], 0)]
    bench.main.execute("INSERT INTO members VALUES (5), (6); UPDATE contributions SET note = 'x' WHERE id = 1")
    bench.main.execute("CREATE TABLE fresh AS SELECT generate_series(1, 3); DROP TABLE kept")
    expected = [
        {"table": "public.contributions", "then": 4, "now": 4, "newer": None, "gone": None},
        {"table": "public.fresh", "then": None, "now": 3, "newer": 3, "gone": 0},
        {"table": "public.kept", "then": 1, "now": None, "newer": 0, "gone": 1},
        {"table": "public.members", "then": 4, "now": 6, "newer": None, "gone": None},
    ]
    other, exact = bench.written(manifest, same)
    assert (other.exact, other.tables, other.rows) == (False, expected, 1 + 3 + 1 + 2)
    assert (exact.exact, exact.rows) == (True, 2 + 1 + 3)


def test_digests_of_another_major_are_not_compared(bench):
    manifest = bench.manifest()
    manifest["snapshot"]["database_oid"], manifest["server_version"] = 1, "14.9"
    bench.main.execute("UPDATE members SET note = 'x'; DELETE FROM contributions WHERE id = 1")
    [written] = bench.written(manifest)
    assert [one["table"] for one in written.tables] == ["public.contributions"]


@contextmanager
def locked(bench: Bench, *tables: str) -> Iterator[None]:
    session = bench.connect()
    session.execute(f"BEGIN; LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
    yield
    session.execute("ROLLBACK")


def test_a_locked_table_is_reported_as_not_counted(bench):
    manifest = bench.manifest()
    bench.main.execute("INSERT INTO members VALUES (5)")
    unknown = {"table": "public.contributions", "then": 4, "now": None, "newer": None, "gone": None}
    with locked(bench, "contributions"):
        [written] = bench.written(manifest, options="-c lock_timeout=50ms")
        assert unknown in written.tables
        assert (written.rows, written.uncounted) == (1, 1)
        manifest["snapshot"]["database_oid"] = 1
        [written] = bench.written(manifest, options="-c lock_timeout=50ms")
        assert unknown in written.tables
        assert (written.rows, written.uncounted) == (1, 1)


def test_only_the_first_locked_table_is_waited_for(bench):
    manifest = bench.manifest()
    for number in range(20):
        bench.main.execute(f"CREATE TABLE t{number} ()")
    with locked(bench, *(f"t{number}" for number in range(20))):
        connection = bench.connect(options="-c lock_timeout=2s")
        result: list[Written] = []
        counting = threading.Thread(target=lambda: result.extend(count_written(connection, [manifest])))
        counting.start()
        counting.join(30)
        assert not counting.is_alive()
    assert result[0].uncounted == 20


def other_role(bench: Bench, setup: Callable[[str], str]) -> str:
    role = f"{bench.database}_reader"
    bench.main.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA public TO {role}; {setup(role)}")
    return role


def without(bench: Bench, role: str) -> None:
    bench.main.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_an_ordinary_role_counts_exactly_what_it_may_read(bench):
    manifest = bench.manifest()
    bench.main.execute("INSERT INTO members VALUES (5); INSERT INTO contributions VALUES (5)")
    role = other_role(bench, lambda role: f"GRANT SELECT ON members TO {role}")
    try:
        [written] = bench.written(manifest, user=role)
        assert written.exact
        assert line(written, "public.members")["newer"] == 1
        assert line(written, "public.contributions")["newer"] is None
        assert (written.rows, written.uncounted) == (1, 1)
    finally:
        without(bench, role)


def test_row_security_hides_no_row(bench):
    manifest = bench.manifest()
    bench.main.execute("INSERT INTO members VALUES (5); ALTER TABLE members ENABLE ROW LEVEL SECURITY")
    role = other_role(bench, lambda role: f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        [written] = bench.written(manifest, user=role)
        assert written.tables == [{"table": "public.members", "then": 4, "now": None, "newer": None, "gone": None}]
        assert bench.written(manifest)[0].rows == 1
    finally:
        without(bench, role)


def test_the_session_is_as_before_and_nothing_is_locked_any_more(bench):
    manifest = bench.manifest()
    connection = bench.connect(options="-c search_path=public -c statement_timeout=7s")
    count_written(connection, [manifest])
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert connection.execute("SHOW statement_timeout").fetchone() == ("7s",)
    bench.main.execute("ALTER TABLE members ADD COLUMN more int")


def test_objects_of_the_database_do_not_take_the_place_of_built_in_ones(bench):
    bench.main.execute(
        "CREATE FUNCTION public.width_bucket(bigint, bigint[]) RETURNS int LANGUAGE sql AS 'SELECT 1/0';"
        "CREATE FUNCTION public.count_it() RETURNS int LANGUAGE sql AS 'SELECT 1/0';"
        "CREATE OPERATOR public.- (FUNCTION = pg_catalog.int8pl, LEFTARG = bigint, RIGHTARG = bigint);"
        f"ALTER DATABASE {bench.database} SET search_path = public, pg_catalog"
    )
    manifest = bench.manifest()
    bench.main.execute("INSERT INTO members VALUES (5)")
    assert bench.written(manifest)[0].rows == 1
