"""What PostgreSQL tells of a run's long statements while they work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.progress import read_progress

from tests.integration.guarded import Ground, ground  # noqa: F401 - a fixture
from tests.waiting import wait_for

# ruff: noqa: F811

SLOW = """
CREATE FUNCTION slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
  $$BEGIN PERFORM pg_sleep(600); RETURN i; END$$"""


@pytest.fixture
def ours(ground: Ground) -> Iterator[psycopg.Connection]:
    with ground.session("run-1") as session:
        session.execute("CREATE TABLE members AS SELECT i, repeat('x', 1000) AS text FROM generate_series(1, 20000) i")
        yield session


@contextmanager
def working(ours: psycopg.Connection, statement: str) -> Iterator[None]:
    """The statement works while the block runs, and is cancelled at its end."""

    def work() -> None:
        with suppress(psycopg.errors.QueryCanceled):
            ours.execute(statement)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ours.cancel()
        thread.join(60)


def only(found: list[dict]) -> dict:
    (one,) = found
    return one


def built(found: list[dict]) -> dict | None:
    """The index that is being built; at first that is about to begin."""
    return next((one for one in found if one.get("doing", "").startswith("building index")), None)


def blocked(found: list[dict]) -> dict | None:
    return next((one for one in found if one["waits"] and one["blockers"]), None)


def test_nothing_is_told_of_sessions_that_do_nothing_and_of_others(ours, connection):
    assert read_progress(connection, "run-1") == []
    with working(ours, "SELECT pg_sleep(600)"):
        wait_for(lambda: read_progress(connection, "run-1"))
        assert read_progress(connection, "run-2") == []


def test_a_table_that_is_read(ours, connection):
    ours.execute("ANALYZE members")
    with ours.cursor() as cursor, cursor.copy("COPY members TO STDOUT") as copy:
        copy.read()
        wait_for(lambda: only(read_progress(connection, "run-1"))["done"] > 0)
        found = only(read_progress(connection, "run-1"))
        for _ in copy:
            pass
    assert (found["kind"], found["what"], found["unit"], found["doing"]) == ("copy", "members", "rows", "COPY TO")
    assert found["total"] == 20000
    assert 0 < found["done"] <= 20000


def test_a_table_that_is_filled_has_no_total(ours, connection):
    ours.execute('CREATE TABLE "Odd name" (i int)')
    with ours.cursor() as cursor, cursor.copy('COPY "Odd name" FROM STDIN') as copy:
        copy.write("1\n" * 100_000)
        wait_for(lambda: (read_progress(connection, "run-1") or [{"done": 0}])[0]["done"] > 1000)
        found = only(read_progress(connection, "run-1"))
    assert (found["kind"], found["what"], found["total"], found["doing"]) == ("copy", '"Odd name"', None, "COPY FROM")


def test_an_index_that_is_built(ours, connection):
    ours.execute(SLOW)
    with working(ours, "CREATE INDEX members_slow ON members (slow(i))"):
        found = wait_for(lambda: built(read_progress(connection, "run-1")))
    assert found["what"] == "CREATE INDEX members_slow ON members (slow(i))"
    assert found["kind"] == "index"
    assert found["unit"] == "blocks"


def test_a_statement_that_waits_names_who_is_in_its_way(ours, connection, ground):
    with ground.cluster.connect(ground.database, application_name="metabase") as other, other.transaction():
        other.execute("LOCK TABLE members")
        with working(ours, "TRUNCATE members"):
            found = wait_for(lambda: blocked(read_progress(connection, "run-1")))
        assert found["blockers"] == [f"{other.info.backend_pid} metabase"]
    assert (found["kind"], found["what"], found["waits"]) == ("statement", "TRUNCATE members", True)
    assert found["seconds"] >= 0
