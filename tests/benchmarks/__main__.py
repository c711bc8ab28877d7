"""``make bench``: what the runbook costs, as ratios against psql or an empty play in the same run.

Every figure is the median of several turns; ours and theirs take turns, so that a busy machine hits both.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.bundle_writer import write_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.schema_folder import read_schema

from demo.embedded import state
from tests.benchmarks import backup, rollback
from tests.benchmarks.ground import BIN, TURNS, Ground, alternate, ground, peaks, show, stacked


def many_small(place: Ground) -> bool:
    """1 000 small migrations: each file in its own transaction with its ledger insert, in both cases."""
    folder = place.folder / "small"
    folder.mkdir()
    script = place.folder / "small.sql"
    ledger = (
        "CREATE TABLE schema_migrations (version text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());\n"
    )
    with script.open("w") as psql:
        psql.write(ledger)
        for number in range(1, 1001):
            sql = f"CREATE TABLE t{number} (id bigint PRIMARY KEY, name text NOT NULL);\nCREATE INDEX ON t{number} (name);\n"
            (folder / f"{number:04d}_table.sql").write_text(sql)
            insert = f"INSERT INTO schema_migrations (version) VALUES ('{number:04d}');\n"
            psql.write(f"BEGIN;\n{sql}{insert}COMMIT;\n")

    bundle, parse = parsed(place, folder)
    mine, psql_seconds = alternate(turn(place, place.module(bundle)), psql_turn(place, script))
    how = f"module {mine:.1f} s, psql {psql_seconds:.1f} s; parsed before in {parse:.1f} s"
    return show("1 000 small migrations against one psql session", mine / psql_seconds, 1.05, "x", how)


def one_large(place: Ground) -> bool:
    """A 20 MB file of INSERTs, and the memory it takes on both sides."""
    folder = place.folder / "large"
    folder.mkdir()
    rows = (f"INSERT INTO big VALUES ({n}, 'name number {n}', '{'x' * 150}');\n" for n in range(105_000))
    text = "CREATE TABLE big (id int, name text, filler text);\n" + "".join(rows)
    (folder / "01_big.sql").write_text(text)
    script = place.folder / "large.sql"
    script.write_text(f"BEGIN;\n{text}COMMIT;\n")
    bundle, parse = parsed(place, folder)
    mine, psql_seconds = alternate(turn(place, place.module(bundle)), psql_turn(place, script))
    how = f"module {mine:.1f} s, psql {psql_seconds:.1f} s, {len(text) / 1e6:.0f} MB; parsed before in {parse:.1f} s"
    well = show("a 20 MB file of INSERTs against psql", mine / psql_seconds, 0.3, "x", how)
    place.fresh()
    client, backend = peaks(place, place.module(bundle))
    well &= show("  memory of the module", client, 64, "MB", "private, sampled")
    return show("  memory of its backend", backend, 32, "MB", "private, sampled") and well


def parsed(place: Ground, folder: Path) -> tuple[Path, float]:
    """The folder as the controller hands it over, and what parsing took (seconds)."""
    started = time.monotonic()
    bundle = folder.with_suffix(".plan")
    write_bundle(bundle, read_schema(folder).migrations)
    return bundle, time.monotonic() - started


def turn(place: Ground, command: list[str]) -> Callable[[], float]:
    def measured() -> float:
        place.fresh()
        return place.seconds(command)

    return measured


def psql_turn(place: Ground, script: Path) -> Callable[[], float]:
    def measured() -> float:
        place.fresh()
        return place.psql(script)

    return measured


def no_operation(place: Ground) -> bool:
    """migrate.yml with nothing pending, against an empty play."""
    with stacked(place):
        migrate = [str(BIN / "ansible-playbook"), "migrate.yml", "-e", "env=local"]
        reports = ["-e", f"habitat_reports_dir={place.folder}/reports"]
        well = window(place, [*migrate, *reports])
        mine, empty = alternate(lambda: seconds(migrate), lambda: seconds(place.empty_play()), turns=5)
        how = f"{mine:.2f} s, empty play {empty:.2f} s"
        return show("migrate.yml with nothing pending against an empty play", mine / empty, 2, "x", how) and well


def seconds(command: list[str]) -> float:
    started = time.monotonic()
    subprocess.run(command, cwd=state.REPOSITORY, capture_output=True, check=True)
    return time.monotonic() - started


def window(place: Ground, migrate: list[str]) -> bool:
    """From stop to healthy with an empty migration, as the run itself prints it."""
    schema = place.folder / "habitat"
    shutil.copytree(state.REPOSITORY / "schema", schema)
    command = [*migrate, "-e", f"habitat_schema_dir={schema}"]
    subprocess.run(command, cwd=state.REPOSITORY, capture_output=True, check=True)
    windows = []
    for number in range(8, 8 + TURNS):
        (schema / f"{number:02d}_empty.sql").write_text("-- nothing\n")
        done = subprocess.run(command, cwd=state.REPOSITORY, capture_output=True, text=True, check=True)
        found = re.search(r"window ([0-9.]+) s", done.stdout)
        windows.append(float(found[1]) if found else 999.0)
    for file in schema.glob("*_empty.sql"):
        shutil.copy(file, place.folder)
    restore_ledger(place, [path.name.partition("_")[0] for path in schema.glob("*_empty.sql")])
    how = "stop to healthy, empty migration, embedded stack"
    return show("the window", statistics.median(windows), 3, "s", how)


def restore_ledger(place: Ground, versions: list[str]) -> None:
    """Forget the empty migrations again, so that the shipped schema/ has nothing pending."""
    found = state.load(Path(os.environ["HABITAT_RUNTIME"]))
    assert found
    with psycopg.connect(
        host=found.socket_folder, port=found.port, user=found.superuser, dbname="habitat"
    ) as connection:
        connection.execute("DELETE FROM schema_migrations WHERE version = ANY(%s)", [versions])


def main() -> int:
    measures = [many_small, one_large, no_operation, *rollback.MEASURES, *backup.MEASURES]
    known = {measure.__name__: measure for measure in measures}
    chosen = sys.argv[1:] or list(known)
    with ground() as place:
        results = [known[name](place) for name in chosen]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
