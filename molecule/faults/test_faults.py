"""Parts of a run are killed; what must hold is looked at before anything else is typed. Then the same command again.

Every kill meets a migration of its own, which goes on when there is no row in the table ``pause``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from stand.killing import kill, killing
from stand.targets import Target, sh
from stand.terminal import Terminal, Typed, until

MIGRATE = "ansible-playbook migrate.yml -e env=staging"
STATUS = "ansible-playbook playbooks/status.yml -e env=staging"
BACKUPS = "/var/backups/habitat"
# The guard waits for habitat_silence, 15 s, once the migration is over.
GONE_SECONDS = 300

_numbers = itertools.count(8)


@pytest.fixture(scope="module", autouse=True)
def pause(target: Target) -> None:
    target.psql("SET ROLE habitat_owner; CREATE TABLE pause (it int)")


@pytest.fixture
def migration(target: Target, folder: Path) -> str:
    """Version of a migration that is pending and makes the table ``made_<version>``; the application runs."""
    go_on(target)
    sh("docker", "start", target.containers()["api"], target.containers()["worker"])
    until(target.healthy, "the API is healthy")
    version = f"{next(_numbers):02d}"
    waits = "DO $$BEGIN WHILE EXISTS (SELECT FROM pause) LOOP PERFORM pg_sleep(0.1); END LOOP; END$$;"
    text = f"CREATE TABLE made_{version} (id int);\n{waits}\n"
    down = f"-- Down migration\nDROP TABLE made_{version};\n"
    (folder / f"schema/{version}_made.sql").write_text(f"{text}{down}")
    target.psql("INSERT INTO pause VALUES (1)")
    return version


def go_on(target: Target) -> None:
    """Let the migration come to its end."""
    # Not TRUNCATE, which would wait for the migration's own lock.
    target.psql("DELETE FROM pause")


def processes(container: str, words: str) -> list[int]:
    """Numbers, as this machine sees them, of a container's processes whose arguments match."""
    shown = sh("docker", "top", container, "-eo", "pid,args").splitlines()[1:]
    return [int(line.split()[0]) for line in shown if re.search(words, line.split(None, 1)[1])]


def in_apply(typed: Typed, target: Target) -> None:
    asleep = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    until(lambda: typed.code is not None or target.psql(asleep, "postgres"), "the migration sleeps")
    assert typed.code is None, typed.screen


@contextmanager
def backup_that_waits(typed: Typed, target: Target) -> Iterator[None]:
    """Hold a table, so that the step that backs up cannot go on before the block ends."""
    # It is there before the backup begins, and elsewhere, since sessions in the way are looked for before that.
    command = ["docker", "exec", "-i", target.containers()["postgres"], "psql", "-qU", "habitat", "postgres"]
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, text=True)
    assert process.stdin
    try:
        typed.until_it_says("PLAN")
        held = "SET application_name = 'held'; BEGIN; LOCK TABLE events; SELECT pg_sleep(600);"
        process.stdin.write(f"\\c habitat\n{held}\n")
        process.stdin.flush()
        waits = (
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'runbook/%' AND query LIKE 'LOCK TABLE%' "
            "AND wait_event_type = 'Lock'"
        )
        until(lambda: typed.code is not None or target.psql(waits, "postgres"), "the step waits")
        assert typed.code is None, typed.screen
        yield
    finally:
        target.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'held'")
        process.stdin.close()
        process.wait(120)


def kill_dump(typed: Typed, target: Target) -> None:
    with ExitStack() as held:
        held.enter_context(backup_that_waits(typed, target))
        run = re.search(r"^Runbook (\S+)", typed.screen)
        assert run
        with killing("pg_dump", run[1]):
            held.close()


def kill_dump_inside(typed: Typed, target: Target) -> None:
    kill_dump(typed, target)
    assert "inside container" in typed.screen


def kill_dump_on_host(typed: Typed, target: Target) -> None:
    kill_dump(typed, target)
    assert "inside container" not in typed.screen


def lose_ssh(target: Target) -> None:
    """Kill what serves the operator's connections on the host."""
    kill(*processes(target.node, r"^sshd: deploy"))


def lose_ssh_in_backup(typed: Typed, target: Target) -> None:
    """The step works on by itself, and the run finds it again."""
    with backup_that_waits(typed, target):
        lose_ssh(target)
    # That is said as soon as it is noticed, which may take longer than a backup waits for a lock.
    typed.until_it_says("the link to the host is lost; the step goes on there")
    go_on(target)


def lose_ssh_in_apply(typed: Typed, target: Target) -> None:
    in_apply(typed, target)
    lose_ssh(target)
    go_on(target)


def kill_controller(typed: Typed, target: Target) -> None:
    """The migration goes on to its end, and then the guard starts what the run had stopped."""
    in_apply(typed, target)
    typed.kill()
    go_on(target)


def press_ctrl_c(typed: Typed, target: Target) -> None:
    in_apply(typed, target)
    typed.process.send_signal(signal.SIGINT)
    typed.wait()
    assert typed.code == 99 and target.healthy(), typed.screen
    # How many sessions it had at that moment is told, too: one or two.
    assert " ended, and PostgreSQL rolled back what was open there" in " ".join(typed.screen.split()), typed.screen


def kill_controller_and_guard(typed: Typed, target: Target) -> None:
    in_apply(typed, target)
    guard = processes(target.node, r"guard\.pyz watch")
    typed.kill()
    kill(*guard)
    go_on(target)


def kill_database_container(typed: Typed, target: Target) -> None:
    in_apply(typed, target)
    container = target.containers()["postgres"]
    sh("docker", "kill", container)
    sh("docker", "start", container)


def kill_postmaster(typed: Typed, target: Target) -> None:
    """Docker's restart policy starts it again."""
    in_apply(typed, target)
    kill(int(target.state("postgres", "Pid")))


def kill_api_in_window(typed: Typed, target: Target) -> None:
    """It was started by somebody in the middle, so the run has to start it again."""
    in_apply(typed, target)
    sh("docker", "start", target.containers()["api"])
    sh("docker", "kill", target.containers()["api"])
    go_on(target)


SAFE, CUT_OFF, DOWN, DONE = "STOPPED, SAFE", "cut off, stopped safe", "services DOWN", "SUCCEEDED"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (kill_dump_inside, SAFE),
        (kill_dump_on_host, SAFE),
        (lose_ssh_in_backup, DONE),
        (lose_ssh_in_apply, DONE),
        (kill_controller, CUT_OFF),
        (press_ctrl_c, CUT_OFF),
        (kill_controller_and_guard, DOWN),
        (kill_database_container, SAFE),
        (kill_postmaster, SAFE),
        (kill_api_in_window, DONE),
    ],
)
def test_killed(
    fault: Callable[[Typed, Target], None], says: str, migration: str, terminal: Terminal, target: Target, folder: Path
) -> None:
    programs_of_the_host(target, there=fault is not kill_dump_inside)
    containers, digests = target.containers(), target.digests()
    typed = terminal.start(MIGRATE)
    try:
        fault(typed, target)
        no_secret_in_arguments(target)
        typed.wait()
    finally:
        typed.kill()
    assert (typed.code == 0) == (says == DONE), typed.screen
    nothing_is_left_running(target)
    schema_and_ledger_agree(target, migration)
    the_application_may_connect(target)
    backups_verify(target)
    assert target.containers() == containers and target.digests() == digests
    status = terminal.type(STATUS)
    assert status.code == 0 and "LOCK      free" in status.screen, status.screen
    if says == DOWN:
        assert DOWN in status.screen
        type_what_it_says(status.screen, terminal)
    else:
        assert says in (status.screen if says == CUT_OFF else typed.screen)
        assert "API healthy" in status.screen, status.screen
    until(target.healthy, "the API is healthy")
    the_same_command_again(terminal, target, migration)


def type_what_it_says(screen: str, terminal: Terminal) -> None:
    """The command under NEXT; before that, the runbook begins nothing else."""
    refused = terminal.type(MIGRATE)
    assert refused.code == 2 and "was cut off after migrations were applied" in refused.screen, refused.screen
    command = re.search(r"^NEXT\s+(ansible-playbook playbooks/resume\.yml .*)$", screen, re.MULTILINE)
    assert command, screen
    done = terminal.type(command[1])
    assert done.code == 0 and "Started again:" in done.screen, done.screen


def the_same_command_again(terminal: Terminal, target: Target, migration: str) -> None:
    go_on(target)
    typed = terminal.type(MIGRATE)
    assert typed.code == 0, typed.screen
    assert migration in target.versions() and target.healthy()
    assert target.ours_running() == []


def test_nothing_is_left_to_do(terminal: Terminal) -> None:
    typed = terminal.type(MIGRATE)
    assert typed.code == 0 and set(typed.changed.values()) == {0}, typed.screen


def programs_of_the_host(target: Target, there: bool) -> None:
    """Without them on the host the programs inside the database's container are used."""
    command = "cd /usr/bin && for one in pg_dump pg_restore; do [ ! -e $one{0} ] || mv $one{0} $one{1}; done"
    names = (".away", "") if there else ("", ".away")
    sh("docker", "exec", target.node, "sh", "-c", command.format(*names))


def nothing_is_left_running(target: Target) -> None:
    with contextlib.suppress(AssertionError):
        until(lambda: not ours_running(target), "nothing of ours runs", GONE_SECONDS)
    assert ours_running(target) == []


def ours_running(target: Target) -> list[str]:
    """A container that starts at this moment cannot be asked."""
    try:
        return target.ours_running()
    except AssertionError as error:
        return [str(error)]


def schema_and_ledger_agree(target: Target, migration: str) -> None:
    made = target.psql(f"SELECT to_regclass('made_{migration}') IS NOT NULL") == ["t"]
    assert made == (migration in target.versions())


def the_application_may_connect(target: Target) -> None:
    assert target.psql("SELECT has_database_privilege('habitat_app', 'habitat', 'CONNECT')") == ["t"]
    assert not [path for path in target.files() if path.endswith("/fence.json")]


def backups_verify(target: Target) -> None:
    """What has a final name is whole, and its manifest says so."""
    for path in (path for path in target.files() if path.startswith(BACKUPS) and path.endswith(".dump")):
        manifest = json.loads(sh("docker", "exec", target.node, "cat", path.replace(".dump", ".json")))
        digest = sh("docker", "exec", target.node, "sha256sum", path).split()[0]
        assert digest == manifest["dump"]["sha256"]


def no_secret_in_arguments(target: Target) -> None:
    """Arguments of every process of this machine, containers included."""
    shown = sh("ps", "-ewwo", "args")
    assert [name for name, secret in target.secrets().items() if secret in shown] == []
