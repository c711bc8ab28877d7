"""Long steps that work on by themselves when whoever started them is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import run_folder
from ansible_collections.habitat.runbook.plugins.module_utils.bundle_writer import write_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.schema_folder import read_schema

from demo.embedded import postgres
from tests.integration import module_process
from tests.integration.guarded import Ground, ground  # noqa: F401 - a fixture
from tests.integration.module_process import MODULES, begin
from tests.waiting import wait_for

# ruff: noqa: F811

RUN = f"20261122t100211z-{os.environ.get('PYTEST_XDIST_WORKER', 'k3f')[:3]}"


class Jobs:
    """A run that holds its lock, and its modules."""

    def __init__(self, ground: Ground, folder: Path) -> None:
        self.ground, self.folder = ground, folder
        assert ground.take(RUN) is None
        self.run_dir = ground.folder(RUN)

    def backup_options(self, **more: Any) -> dict[str, Any]:
        where = {"backup_dir": str(self.folder / "backups"), "bin_dir": str(postgres.BIN), "run_dir": str(self.run_dir)}
        return {**self.ground.login(RUN), **where, **more}

    def backup(self, wait: float | None, check: bool = False, **more: Any) -> dict[str, Any]:
        return module_process.run("database_backup", check, wait=wait, **self.backup_options(**more))

    def migrate(self, sql: str, **more: Any) -> dict[str, Any]:
        schema, plan = self.folder / "schema", self.folder / "plan"
        schema.mkdir()
        (schema / "01_x.sql").write_text(sql)
        write_bundle(plan, read_schema(schema).migrations)
        given = {"schema_dir": str(schema), "plan": str(plan), "run_dir": str(self.run_dir), **more}
        return module_process.run("schema_migrations", **self.ground.login(RUN), **given)

    def look(self, name: str, wait: float = 60) -> dict[str, Any]:
        return module_process.run("job", name=name, wait=wait, run_dir=str(self.run_dir), **self.ground.login(RUN))


@pytest.fixture
def run(ground: Ground, tmp_path: Path, connection: psycopg.Connection) -> Jobs:
    connection.execute("CREATE TABLE members AS SELECT i FROM generate_series(1, 100) i")
    return Jobs(ground, tmp_path)


@contextmanager
def in_the_way(ground: Ground) -> Iterator[int]:
    """Somebody for whom a dump of the database has to wait."""
    with ground.cluster.connect(ground.database, application_name="metabase") as other, other.transaction():
        other.execute("LOCK TABLE members IN ACCESS EXCLUSIVE MODE")
        yield other.info.backend_pid


def test_what_is_done_in_time_is_answered_at_once(run):
    done = run.backup(wait=120)
    assert done["changed"] is True
    assert done["backup"]["id"] == f"local-{RUN}"
    assert (run.run_dir / "job-backup.json").stat().st_mode & 0o077 == 0
    assert run.look("backup")["result"] == done, "whoever did not hear it may ask again"


def test_what_takes_longer_goes_on_without_its_first_process(run):
    with in_the_way(run.ground) as pid:
        told = run.backup(wait=0)
        assert (told["changed"], told["running"], "backup" in told) == (False, "backup", False)
        wait_for(lambda: run_folder.at_work(run.run_dir))
        waits = [("statement", [f"{pid} metabase"])]
        wait_for(lambda: [(one["kind"], one["blockers"]) for one in run.look("backup", 0)["progress"]] == waits)
        found = run.look("backup", wait=0.2)
        assert (found["running"], found["warning"], len(found["progress"])) == ("backup", None, 1)
        assert run.ground.guard(RUN)
    done = run.look("backup")["result"]
    assert (done["changed"], done["backup"]["tables"]) == (True, 1)
    assert (run.folder / "backups" / f"local-{RUN}.dump").exists()
    assert not run_folder.at_work(run.run_dir)
    said = [(line["event"], line["what"]) for line in run.ground.journal(RUN)]
    assert said[1:] == [("intent", "BACKUP"), ("done", "BACKUP")]


def step_at_work(run: Jobs) -> int | None:
    """The process of the step that is at work; it says its number a moment after it has begun."""
    return run_folder.read_step(run.run_dir).get("pid") if run_folder.at_work(run.run_dir) else None


def test_it_goes_on_when_the_first_process_is_killed(run):
    with in_the_way(run.ground):
        command = [sys.executable, "-m", f"{MODULES}.database_backup"]
        first = begin(command, run.backup_options(wait=600), start_new_session=True)
        wait_for(lambda: step_at_work(run))
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        assert run_folder.read_step(run.run_dir)["pid"] != first.pid
        assert run.look("backup", wait=0)["running"] == "backup"
    assert run.look("backup")["result"]["changed"] is True


def test_a_job_that_is_killed_is_told_as_ended_from_outside(run):
    with in_the_way(run.ground):
        assert run.backup(wait=0)["running"] == "backup"
        os.killpg(wait_for(lambda: step_at_work(run)), signal.SIGKILL)
        told = run.look("backup")["result"]
    assert told == {
        "failed": True,
        "gone": True,
        "msg": "the step has left no result: it was ended from outside, or the disk of its run is full; see status.yml",
    }
    assert not run_folder.at_work(run.run_dir)


def test_a_job_that_was_never_begun_is_told_in_the_same_way(run):
    assert run.look("restore", wait=0)["result"]["gone"] is True


def test_a_job_of_a_run_that_was_ended_tells_why(run):
    with in_the_way(run.ground):
        assert run.backup(wait=0)["running"] == "backup"
        wait_for(lambda: run_folder.at_work(run.run_dir))
        run_folder.write_json(run.run_dir / run_folder.CANCEL, {"why": "bob cancelled it"})
        wait_for(lambda: run.ground.guard(RUN) is None)
        told = run.look("backup")["result"]
    assert told["failed"] is True
    assert told["msg"].startswith(f"run {RUN} was ended: bob cancelled it; what to do now: ")
    assert "Its step BACKUP was ended." in run.ground.report(RUN)["state"]
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    with run.ground.cluster.connect() as admin:
        wait_for(lambda: admin.execute(query, [f"runbook/{RUN}"]).fetchone() == (0,))


def test_a_failure_is_relayed(run):
    told = run.backup(wait=120, bin_dir="/nowhere")
    assert told["failed"] is True
    assert "/nowhere" in told["msg"]
    assert run.look("backup")["result"] == told


@pytest.mark.parametrize(("wait", "check", "run_dir"), [(None, False, True), (0, True, True), (0, False, False)])
def test_without_a_run_or_a_wait_or_in_check_mode_there_is_no_job(run, wait, check, run_dir):
    more = {} if run_dir else {"run_dir": None}
    given = {name: value for name, value in run.backup_options(wait=wait, **more).items() if value is not None}
    assert module_process.run("database_backup", check, **given)["backup"]["id"] == f"local-{RUN}"
    assert list(run.run_dir.glob("job-*")) == []


def test_the_second_attempt_does_not_answer_with_the_result_of_the_first(run):
    assert run.backup(wait=120, bin_dir="/nowhere")["failed"] is True
    assert run.backup(wait=120)["backup"]["id"] == f"local-{RUN}"


def test_a_migration_is_such_a_job_and_shows_the_index_that_it_builds(run, connection):
    connection.execute("DROP TABLE members; SELECT pg_advisory_lock(4711)")
    body = "BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN i; END"
    slow = f"CREATE FUNCTION slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $${body}$$;"
    index = "CREATE TABLE t AS SELECT 1 AS i;\nCREATE INDEX t_slow ON t (slow(i));"
    assert (
        run.migrate(f"{slow}\n{index}\n-- Down migration\nDROP TABLE t;", wait=0, lock_timeout="0")["running"]
        == "applied"
    )
    kinds = lambda: [one["kind"] for one in run.look("applied", wait=0)["progress"]]  # noqa: E731
    wait_for(lambda: "index" in kinds())
    run_folder.note(run.run_dir, run_folder.NOTE, "window", open_for=900, ends_at=1800)
    warned = run.look("applied", wait=0)["warning"]
    assert (warned["open_for"], warned["ends_at"]) == (900, 1800)
    connection.execute("SELECT pg_advisory_unlock(4711)")
    done = run.look("applied")["result"]
    assert [one["version"] for one in done["applied"]] == ["01"]
    commits = [line for line in run.ground.journal(RUN) if line["what"] == "commit"]
    assert [(line["event"], line["version"]) for line in commits] == [("intent", "01"), ("done", "01")]
    assert commits[0]["xid"] == commits[1]["xid"]
    status = connection.execute("SELECT pg_xact_status(%s::text::xid8)", [commits[0]["xid"]]).fetchone()
    assert status == ("committed",)


RAISES = """
import os, sys
from pathlib import Path
from ansible_collections.habitat.runbook.plugins.module_utils import jobs
path = jobs.output(Path(sys.argv[1]), "x")
os.waitpid(jobs._fork(path, lambda: {}["by\\nzero"]), 0)
assert jobs.wait_for(path, 0)
jobs.relay(path)
"""


def test_work_that_raises_is_a_failure_in_words(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", RAISES, str(tmp_path)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=True)
    told = json.loads(done.stdout)
    assert told["failed"] is True
    assert told["msg"].startswith("KeyError: ")
