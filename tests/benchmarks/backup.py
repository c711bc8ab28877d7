"""What a backup costs beside pg_dump, what its proof costs, and what restoring it costs beside pg_restore."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils import client_programs, dump, restore
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import READ, RESTORE
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import count_tables, readable_tables
from ansible_collections.habitat.runbook.plugins.module_utils.table_counts import TableCounts

from demo.embedded import postgres
from tests.benchmarks.ground import TURNS, Ground, alternate, show, tell
from tests.benchmarks.rollback import JOBS, RUN, databases

DATABASE = "bulk"
TABLES, ROWS = 8, 400_000
SLOWER = 1.05
"""95 % of the throughput."""

SETTINGS = {"application_name": session_name(RUN), "options": session_options("0", "0")}
TABLE = """
CREATE TABLE t{0} AS SELECT g AS id, md5(g::text) AS name, '2026-01-01'::timestamptz + g * interval '61.7 s' AS at,
  g * 1.19 AS price, jsonb_build_object('n', g, 'kind', 'kind ' || g % 17) AS detail, repeat('word ' || g % 101, 8) AS note
FROM generate_series(1, {1}) g; ALTER TABLE t{0} ADD PRIMARY KEY (id); CREATE INDEX ON t{0} (name)"""


def backing_up(place: Ground) -> bool:
    """Dumping, proving and restoring one database of some hundred megabytes, so that fixed costs count little."""
    with bulk(place) as megabytes:
        print(
            f"      a database of {megabytes:.0f} MB; {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        well = dumping(place)
        told = proving(place)
        return restoring(place, told) and well


@contextlib.contextmanager
def bulk(place: Ground) -> Iterator[float]:
    """A database that is vacuumed and on the disk; yields its size (MB)."""
    with place.connect() as admin:
        admin.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0")
        with place.connect(DATABASE) as session:
            for number in range(TABLES):
                session.execute(TABLE.format(number, ROWS))
            session.execute("VACUUM ANALYZE")
            row = session.execute("SELECT pg_database_size(current_database()) / 1e6").fetchone()
        admin.execute("CHECKPOINT")
        yield float(row[0]) if row else 0
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def dumping(place: Ground) -> bool:
    """The dump of a backup against pg_dump in the same form and compression, and what its proof costs beside it."""
    raw = place.folder / "raw.dump"
    command = place.program("pg_dump", "-Fc", "--compress=zstd", "-f", str(raw), DATABASE)
    with timed_to_the_end() as dumped:
        mine, plain = alternate(lambda: dumped(lambda: take(place, READ)), lambda: place.seconds(command))
    how = f"{mine:.1f} s, {plain:.1f} s; {TABLES * ROWS:,} rows, {raw.stat().st_size / 1e6:.0f} MB dump"
    well = show("the dump of a backup against pg_dump", mine / plain, SLOWER, "x", how)
    told = [take(place, READ) for _ in range(TURNS)]
    beside = statistics.median(before_proof(one) for one in told)
    tell("  with all rows counted and digested, too", beside / plain, "x", f"{beside:.1f} s, {JOBS} jobs")
    tell("  the same counting alone, in one session", counting(place), "s", "by the same query, with nothing beside it")
    read = statistics.median(one["proof"]["seconds"] for one in told)
    tell("  its proof by reading it back", read, "s", f"{read / beside:.2f} of the dumping and counting")
    return well


@contextlib.contextmanager
def timed_to_the_end() -> Iterator[Callable[[Callable[[], object]], float]]:
    """Yields a function that takes a backup by another and tells how long it took to the end of pg_dump (seconds)."""
    ended: list[float] = []

    class Noting(TableCounts):
        def done(self) -> bool:
            """Asked for the first time when pg_dump has ended."""
            ended.append(time.monotonic())
            return super().done()

    def dumped(backup: Callable[[], object]) -> float:
        ended.clear()
        started = time.monotonic()
        backup()
        return ended[0] - started

    dump.TableCounts = Noting  # type: ignore[misc]
    try:
        yield dumped
    finally:
        dump.TableCounts = TableCounts  # type: ignore[misc]


def take(place: Ground, proof: str) -> dict[str, Any]:
    """The manifest of a new backup, the only one in its folder."""
    folder = place.folder / "bulk"
    shutil.rmtree(folder, ignore_errors=True)
    how = dump.How(bin_dir=str(postgres.BIN), compression="zstd", proof=proof, jobs=JOBS)
    with place.connect(DATABASE, **SETTINGS) as session:
        return dump.take_backup(session, folder, "bench", RUN, "bench", how).manifest


def before_proof(told: dict[str, Any]) -> float:
    return told["seconds"] - told["proof"]["seconds"]


def counting(place: Ground) -> float:
    with place.connect(DATABASE, **SETTINGS) as session:
        tables = readable_tables(session)
        started = time.monotonic()
        dict(count_tables(session, tables))
        return time.monotonic() - started


def proving(place: Ground) -> dict[str, Any]:
    """What the proof by restore costs; returns the last manifest."""
    takes = [take(place, RESTORE) for _ in range(TURNS)]
    seconds = statistics.median(one["proof"]["seconds"] for one in takes)
    ratio = statistics.median(one["proof"]["seconds"] / before_proof(one) for one in takes)
    tell("  its proof by restoring and comparing it", seconds, "s", f"{ratio:.2f} of the dumping, {JOBS} jobs")
    return takes[-1]


def restoring(place: Ground, told: dict[str, Any]) -> bool:
    """restore_backup less its comparison, against createdb, pg_restore and ANALYZE."""
    path, comparing = place.folder / "bulk" / told["dump"]["file"], []

    def ours() -> float:
        with databases(place, kept="copy"), timed(comparing), place.connect(**SETTINGS) as admin:
            tools = client_programs.find_tools(str(postgres.BIN), admin.info.server_version)
            done = restore.restore_backup(
                admin, lambda name: place.connect(name, **SETTINGS), tools, path, told, "copy", JOBS
            )
        return done.seconds - comparing[-1]

    def theirs() -> float:
        commands = (
            place.program("createdb", "-T", "template0", "copy"),
            place.program("pg_restore", "-d", "copy", f"--jobs={JOBS}", str(path)),
            place.program("psql", "-X", "-d", "copy", "-c", "ANALYZE"),
        )
        with databases(place, kept="copy"):
            return sum(place.seconds(command) for command in commands)

    mine, plain = alternate(ours, theirs)
    well = show(
        "restoring it against createdb, pg_restore, ANALYZE", mine / plain, SLOWER, "x", f"{mine:.1f} s, {plain:.1f} s"
    )
    compared = statistics.median(comparing)
    tell("  comparing what was restored with the manifest", compared, "s", f"{compared / mine:.2f} of the restoring")
    return well


@contextlib.contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    """Note what each comparison of a restore takes."""
    compare = restore.compare

    def noted(*arguments: Any) -> Any:
        started = time.monotonic()
        found = compare(*arguments)
        seconds.append(time.monotonic() - started)
        return found

    restore.compare = noted
    try:
        yield
    finally:
        restore.compare = compare


MEASURES = (backing_up,)
