"""A run's folder: the journal survives a crash, a step shows that it lives, nothing begins once the run has ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import run_folder
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import Ended, note, read_journal, step
from hypothesis import given
from hypothesis import strategies as st

WHY = {"why": "bob cancelled it", "next": "ansible-playbook playbooks/status.yml -e env=local"}
IMPORT = "from ansible_collections.habitat.runbook.plugins.module_utils import run_folder"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "20261122t100211z-k3f"
    made.mkdir()
    (made / run_folder.STEP).touch()
    return made


def events(folder: Path) -> list[tuple[str, str]]:
    return [(line["event"], line["what"]) for line in read_journal(folder)]


def python(code: str, *arguments: str, **more) -> subprocess.Popen[str]:
    """A process of its own that has the module, and whoever waits for its first line knows that it has begun."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", f"{IMPORT}\n{code}", *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, **more)


# The journal.


def test_a_line_has_two_clocks_what_happened_and_the_details(folder):
    note(folder, run_folder.INTENT, "STOP", names=["api"], at_least=1)
    (line,) = read_journal(folder)
    assert line.pop("at").endswith("+00:00")
    assert isinstance(line.pop("mono"), float)
    assert line == {"event": "intent", "what": "STOP", "names": ["api"], "at_least": 1}
    assert (folder / run_folder.JOURNAL).stat().st_mode & 0o777 == 0o600


def test_no_journal_has_no_lines(tmp_path):
    assert read_journal(tmp_path) == []


def test_a_line_that_a_crash_has_cut_off_is_left_out_and_the_next_one_is_not_lost(folder):
    note(folder, run_folder.INTENT, "STOP")
    note(folder, run_folder.DONE, "STOP")
    journal = folder / run_folder.JOURNAL
    whole = journal.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        journal.write_bytes(whole[:length])
        assert events(folder) == [("intent", "STOP"), *([("done", "STOP")] if length == len(whole) - 1 else [])]
        note(folder, run_folder.NOTE, "GUARD")
        assert events(folder)[-1] == ("note", "GUARD")
        assert events(folder)[0] == ("intent", "STOP")


def test_lines_of_several_writers_do_not_mix(folder):
    code = (
        "import sys\nfrom pathlib import Path\nfor number in range(200):\n"
        "    run_folder.note(Path(sys.argv[1]), 'note', sys.argv[2], False, number=number, pad='x' * number * 20)"
    )
    writers = [python(code, str(folder), name) for name in ("a", "b", "c")]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = read_journal(folder)
    # One that looks while another one writes begins a line too many, which is empty.
    written = list(filter(None, (folder / run_folder.JOURNAL).read_bytes().splitlines()))
    assert len(written) == len(lines) == 600
    for name in ("a", "b", "c"):
        assert [line["number"] for line in lines if line["what"] == name] == list(range(200))


@given(st.dictionaries(st.text(min_size=1).filter(lambda name: name not in ("at", "mono")), st.text()))
def test_whatever_a_line_says_it_is_one_line(tmp_path_factory, details):
    folder = tmp_path_factory.mktemp("run")
    details = {f"x{name}": value for name, value in details.items()}
    note(folder, run_folder.NOTE, "x", durable=False, **details)
    (line,) = read_journal(folder)
    assert {name: line[name] for name in details} == details


def test_a_line_that_does_not_fit_is_an_error_and_not_half_a_line(folder):
    note(folder, run_folder.NOTE, "x", pad="x" * 100)
    size = (folder / run_folder.JOURNAL).stat().st_size
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 20}, {size + 20}))\n"
        "try:\n    run_folder.note(Path(sys.argv[1]), 'intent', 'STOP')\nexcept OSError:\n    print('error')"
    )
    assert python(code, str(folder)).communicate(timeout=60)[0] == "error\n"
    note(folder, run_folder.NOTE, "later")
    assert events(folder) == [("note", "x"), ("note", "later")]


# JSON files.


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"1", b"\xff\xfe"])
def test_what_is_not_whole_is_not_there(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    assert run_folder.read_json(tmp_path / "x.json") is None
    assert run_folder.read_json(tmp_path / "none.json") is None


def test_a_file_is_private_and_nothing_is_left_beside_it(tmp_path):
    run_folder.write_json(tmp_path / "x.json", {"a": Path("/b")})
    assert run_folder.read_json(tmp_path / "x.json") == {"a": "/b"}
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


# Steps.


def test_a_step_is_at_work_until_it_ends_and_says_what_it_did(folder):
    # Two times within a few milliseconds may be the same to a file system.
    os.utime(folder / run_folder.STEP, (1, 1))
    before = (folder / run_folder.STEP).stat().st_mtime_ns
    assert not run_folder.at_work(folder)
    with step(folder, "BACKUP", size=3) as told:
        assert run_folder.at_work(folder)
        found = run_folder.read_step(folder)
        assert (found["phase"], found["pid"]) == ("BACKUP", os.getpid())
        assert found["started"] == run_folder.process_started(os.getpid())
        told["backup"] = "b-1"
    assert not run_folder.at_work(folder)
    assert (folder / run_folder.STEP).stat().st_mtime_ns > before
    first, last = read_journal(folder)
    assert (first["event"], first["what"], first["size"]) == ("intent", "BACKUP", 3)
    assert (last["event"], last["what"], last["backup"]) == ("done", "BACKUP", "b-1")


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (ZeroDivisionError("by\nzero"), "failed"),
        (SystemExit(1), "failed"),
        (SystemExit("text"), "failed"),
        (KeyboardInterrupt(), "failed"),
        (SystemExit(0), "done"),
        (SystemExit(None), "done"),
    ],
)
def test_how_a_step_ends_is_on_record(folder, error, event):
    with pytest.raises(type(error)), step(folder, "APPLY") as told:
        told["reached"] = "06"
        raise error
    last = read_journal(folder)[-1]
    assert (last["event"], last["reached"]) == (event, "06")
    assert "\n" not in last.get("error", "")
    assert not run_folder.at_work(folder)


@pytest.mark.parametrize(("error", "event"), [("schema/06.sql:1: no", "failed"), ("", "done")])
def test_a_step_that_tells_of_an_error_has_failed(folder, error, event):
    with step(folder, "APPLY") as told:
        told["error"] = error
    assert events(folder)[-1] == (event, "APPLY")


def test_a_second_step_waits_for_the_first(folder):
    order = []

    def second() -> None:
        with step(folder, "START"):
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with step(folder, "STOP"):
            waiting = pool.submit(second)
            # It cannot be seen that somebody waits, but never may it be there already.
            assert not waiting.done()
            order.append("first")
        waiting.result(30)
    assert order == ["first", "second"]
    assert events(folder) == [("intent", "STOP"), ("done", "STOP"), ("intent", "START"), ("done", "START")]


def test_a_step_that_was_killed_does_not_look_alive_and_left_its_intent(folder):
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "with run_folder.step(Path(sys.argv[1]), 'APPLY'):\n    print(1, flush=True)\n    time.sleep(600)"
    )
    process = python(code, str(folder))
    assert process.stdout and process.stdout.readline() == "1\n"
    assert run_folder.at_work(folder)
    found = run_folder.read_step(folder)
    assert found["pid"] == process.pid
    assert run_folder.process_started(process.pid) == found["started"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not run_folder.at_work(folder)
    assert events(folder) == [("intent", "APPLY")]
    assert run_folder.process_started(process.pid) is None


def test_between_steps_none_begins(folder):
    """It waits, and finds that the run is over when its folder has gone meanwhile."""
    with step(folder, "STOP"), run_folder.between_steps(folder) as quiet:
        assert not quiet
    with run_folder.between_steps(folder) as quiet:
        assert quiet
        process = python(
            "import sys\nfrom pathlib import Path\nprint(1, flush=True)\n"
            "with run_folder.step(Path(sys.argv[1]), 'STOP'):\n    print(2, flush=True)",
            str(folder),
        )
        assert process.stdout and process.stdout.readline() == "1\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        shutil.rmtree(folder)
    assert process.wait(60) == 1
    assert process.stdout.read() == ""
    with run_folder.between_steps(folder) as quiet:
        assert quiet, "a folder that is gone has no step"


def test_without_a_run_there_is_no_step():
    with run_folder.step_of(None, "APPLY") as told:
        told["x"] = 1
    run_folder.require_guard(None)


def test_nothing_begins_when_the_journal_cannot_be_written(folder):
    (folder / run_folder.JOURNAL).mkdir()
    with pytest.raises(Ended, match=r"nothing was begun.*make room"), step(folder, "STOP"):
        pytest.fail("it must not begin")
    assert not run_folder.at_work(folder)


def test_what_was_done_is_done_when_the_journal_cannot_be_written_any_more(folder):
    with step(folder, "STOP"):
        (folder / run_folder.JOURNAL).unlink()
        (folder / run_folder.JOURNAL).mkdir()


# The end.


def test_no_step_begins_after_the_end(folder):
    run_folder.write_json(folder / run_folder.ENDED, WHY)
    with pytest.raises(Ended) as caught, step(folder, "STOP"):
        pytest.fail("it must not begin")
    assert str(caught.value) == (
        "run 20261122t100211z-k3f was ended: bob cancelled it; what to do now: "
        "ansible-playbook playbooks/status.yml -e env=local"
    )
    assert read_journal(folder) == []


def test_the_end_is_known_when_only_the_reports_are_left(tmp_path):
    folder, kept = tmp_path / "run-1", tmp_path / run_folder.REPORTS / "run-1"
    kept.mkdir(parents=True)
    run_folder.write_json(kept / run_folder.ENDED, WHY)
    for begin in (lambda: step(folder, "STOP").__enter__(), lambda: run_folder.require_guard(str(folder))):
        with pytest.raises(Ended, match="bob cancelled it"):
            begin()


def test_a_run_of_which_nothing_is_known_is_not_going_on(tmp_path):
    with pytest.raises(Ended, match="run-1 is not going on; start again"), step(tmp_path / "run-1", "STOP"):
        pytest.fail("it must not begin")
    with pytest.raises(Ended, match="guard is gone, so nothing is stopped"):
        run_folder.require_guard(str(tmp_path / "run-1"))


# The guard.


def test_a_guard_is_known_by_what_it_was_started_with(folder):
    program = folder / run_folder.PROGRAM
    program.write_text("print(1, flush=True)\nimport time\ntime.sleep(600)\n")
    assert run_folder.guard_pid(folder) is None
    # Who only has the file open, or boots, is none.
    others = [[sys.executable, str(program), "boot"], [sys.executable, str(program), "watch", "x", "y"]]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in others]
    try:
        assert all(process.stdout and process.stdout.readline() for process in processes)
        assert run_folder.guard_pid(folder) == processes[1].pid
        assert not run_folder.guards(processes[0].pid, folder)
        assert run_folder.guard_pid(folder.parent / "another") is None
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert run_folder.guard_pid(folder) is None


def test_runs_of_a_database_are_those_that_its_folder_names(tmp_path):
    for name, database in (("r1", "habitat"), ("r2", "other"), ("r3", "habitat")):
        (tmp_path / name).mkdir()
        (tmp_path / name / run_folder.RUN).write_text(json.dumps({"id": name, "database": database}))
    (tmp_path / "r4").mkdir()
    (tmp_path / run_folder.REPORTS / "r5").mkdir(parents=True)
    (tmp_path / run_folder.REPORTS / "r5" / run_folder.RUN).write_text(json.dumps({"database": "habitat"}))
    assert [path.name for path in run_folder.unsettled(tmp_path, "habitat")] == ["r1", "r3"]
    assert run_folder.guarded(tmp_path, "habitat") == []
    assert run_folder.unsettled(tmp_path / "none", "habitat") == []
