"""What going back costs: the swap, putting a restore point back, what prepares for it, and restoring a backup."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import client_programs, copies, dump, restore
from ansible_collections.habitat.runbook.plugins.module_utils.bundle_writer import write_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted
from ansible_collections.habitat.runbook.plugins.module_utils.schema_folder import read_schema
from ansible_collections.habitat.runbook.plugins.module_utils.schema_watch import WATCHED

from demo.embedded import postgres, state
from tests.benchmarks.ground import BIN, TURNS, Ground, alternate, show, stacked, tell

RUN = "20261122t100211z-k3f"
CLIENTS = 10
JOBS = 2

SINCE_FAILURE = """
SELECT extract(epoch FROM max(at) FILTER (WHERE event = 'restore') - max(at) FILTER (WHERE event = 'fail'))::float8
FROM schema_migrations_history WHERE run_id = %s"""


def swap(place: Ground) -> bool:
    """Swapping with clients that keep reconnecting, against two bare renames that nobody disturbs."""
    ours, theirs = alternate(lambda: swap_seconds(place), lambda: rename_seconds(place), turns=5)
    how = (
        f"{CLIENTS} clients reconnect; two renames by psql with nobody connected {theirs:.2f} s: {ours / theirs:.1f} x"
    )
    return show("the swap", ours, 1, "s", how)


def swap_seconds(place: Ground) -> float:
    incoming, kept = (copies.copy_name("live", kind, RUN) for kind in (copies.RESTORE, copies.BEFORE))
    with databases(place, "live", incoming, kept=kept), reconnecting(place, "live"):
        return copies.swap(place.connect, "live", incoming, RUN).seconds


def rename_seconds(place: Ground) -> float:
    script = place.folder / "renames.sql"
    script.write_text("BEGIN;\nALTER DATABASE live RENAME TO kept;\nALTER DATABASE incoming RENAME TO live;\nCOMMIT;\n")
    with databases(place, "live", "incoming", kept="kept"):
        return place.psql(script)


@contextmanager
def databases(place: Ground, *names: str, kept: str) -> Iterator[None]:
    """Empty databases; dropped afterwards, and the one called ``kept``, too."""
    with place.connect() as admin:
        for name in names:
            admin.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0")
        yield
        for name in (*names, kept):
            admin.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")


@contextmanager
def reconnecting(place: Ground, database: str) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.benchmarks.reconnecting", str(place.folder), database, str(CLIENTS)]
    process = subprocess.Popen(command, cwd=state.REPOSITORY)
    try:
        with place.connect() as admin:
            while len(copies.read_sessions(admin, database)) < CLIENTS:
                time.sleep(0.01)
        yield
    finally:
        process.kill()
        process.wait()


def put_back(place: Ground) -> bool:
    """A run whose second migration fails, so that its restore point is swapped in while the services are down.

    Measured is from the failing migration's entry in the history, written right after its ROLLBACK, to the end of the
    swap: the restore's entry, written right before it, plus its seconds. That is the end of one module, the tasks of
    the rescue part and a second module; the application's own start comes after it. The limit is for this alone.
    """
    with stacked(place) as stack:
        schema = place.folder / "failing"
        shutil.copytree(state.REPOSITORY / "schema", schema)
        assert migrate(place, schema)["outcome"] == "succeeded"
        (schema / "90_works.sql").write_text("CREATE TABLE works (id int);\n")
        (schema / "91_fails.sql").write_text("SELECT 1/0;\n")
        runs = [failing_run(place, schema, stack) for _ in range(TURNS)]
    back, window, point = (statistics.median(run[name] for run in runs) for name in ("back", "window", "point"))
    how = f"until the restore point is the database again; swap {statistics.median(run['swap'] for run in runs):.2f} s"
    well = show("from the failure of a second migration", back, 2, "s", how)
    tell("  the window of that run", window, "s", "stop to healthy, embedded stack")
    return (
        show("  taking the restore point, inside the window", point, 1, "s", "of the embedded stack's database")
        and well
    )


def migrate(place: Ground, schema: Path) -> dict[str, Any]:
    """Run migrate.yml and return its report, whatever came of it."""
    reports = place.folder / "reports"
    settings = ["env=local", f"habitat_schema_dir={schema}", f"habitat_reports_dir={reports}"]
    command = [str(BIN / "ansible-playbook"), "migrate.yml", *(word for one in settings for word in ("-e", one))]
    subprocess.run(command, cwd=state.REPOSITORY, capture_output=True, check=False)
    return json.loads(max(reports.glob("*/report.json")).read_text())


def failing_run(place: Ground, schema: Path, stack: state.Stack) -> dict[str, float]:
    report = migrate(place, schema)
    assert report["outcome"] == "rolled_back", report["outcome"]
    where = {"host": stack.socket_folder, "port": stack.port, "user": stack.superuser, "dbname": stack.database}
    with psycopg.connect(**where) as session:
        row = session.execute(SINCE_FAILURE, [report["run"]["id"]]).fetchone()
    back = (row[0] if row else 0) + report["swap_seconds"]
    point = report["restore_point"]["seconds"]
    return {"back": back, "swap": report["swap_seconds"], "point": point, "window": report["window_seconds"]}


def schema_watch(place: Ground) -> bool:
    """As many migrations as are watched at most, on a schema of 100 tables, with and without the watch."""
    folder = place.folder / "watched"
    folder.mkdir()
    tables = "".join(
        f"CREATE TABLE t{n} (id bigint PRIMARY KEY, name text NOT NULL);\nCREATE INDEX ON t{n} (name);\n"
        for n in range(100)
    )
    (folder / "01_tables.sql").write_text(tables)
    for number in range(2, WATCHED + 1):
        (folder / f"{number:02d}_column.sql").write_text(f"ALTER TABLE t{number} ADD COLUMN more text;\n")
    bundle = folder.with_suffix(".plan")
    write_bundle(bundle, read_schema(folder).migrations)

    def seconds(*watched: str) -> float:
        place.fresh()
        return place.seconds(place.module(bundle, *watched))

    ours, theirs = alternate(seconds, lambda: seconds("0"), turns=5)
    how = f"{WATCHED} migrations, 100 tables: {ours:.2f} s, without {theirs:.2f} s"
    return show("watching the schema, for each migration", (ours - theirs) * 1000 / WATCHED, 50, "ms", how)


def restoring(place: Ground) -> bool:
    """restore_backup, which also reads the dump's digest and compares all rows, against what people type."""
    backups, told = place.folder / "backups", {}
    settings = {"application_name": session_name(RUN), "options": session_options("0", "0")}
    with place.connect() as admin:
        admin.execute("CREATE DATABASE original TEMPLATE template0")
    with place.connect("original", **settings) as session:
        for number in range(8):
            session.execute(
                f"CREATE TABLE t{number} AS SELECT g AS id, md5(g::text) AS name, now() AS at, repeat('x', 80) AS filler "
                f"FROM generate_series(1, 50000) g; ALTER TABLE t{number} ADD PRIMARY KEY (id); "
                f"CREATE INDEX ON t{number} (name)"
            )
        told.update(
            dump.take_backup(session, backups, "bench", RUN, "bench", dump.How(bin_dir=str(postgres.BIN))).manifest
        )
    path = backups / told["dump"]["file"]

    def ours() -> float:
        with databases(place, kept="copy"), place.connect(**settings) as admin:
            tools = client_programs.find_tools(str(postgres.BIN), admin.info.server_version)
            return restore.restore_backup(
                admin, lambda name: place.connect(name, **settings), tools, path, told, "copy", JOBS
            ).seconds

    def theirs() -> float:
        with databases(place, kept="copy"):
            return sum(
                place.seconds(command)
                for command in (
                    place.program("createdb", "-T", "template0", "copy"),
                    place.program("pg_restore", "-d", "copy", f"--jobs={JOBS}", str(path)),
                    place.program("psql", "-X", "-d", "copy", "-c", "ANALYZE"),
                )
            )

    mine, plain = alternate(ours, theirs)
    how = f"{mine:.1f} s, {plain:.1f} s; 400 000 rows, {path.stat().st_size / 1e6:.0f} MB dump, {JOBS} jobs"
    tell("restoring and comparing against createdb, pg_restore", mine / plain, "x", how)
    return True


MEASURES = (swap, put_back, schema_watch, restoring)
