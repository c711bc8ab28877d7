"""A rollback that is killed at any moment: the database is as it was or swapped whole, and the next run succeeds."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import copies
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted

from demo.embedded import postgres
from tests.integration.killed_scene import (
    DATABASE,
    OWNER,
    VISITOR,
    WRITES,
    Scene,
    Server,
    contents,
    next_id,
    set_up,
)
from tests.waiting import wait_for

# The moment within the restore, and within the swap, in parts of what each takes; the swap's end is in there, too.
RESTORE, SWAP = ("restore", 1.0), ("swap", 1.3)

FIRST = pytest.param("first", marks=pytest.mark.long)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Iterator[Scene]:
    server = Server()
    try:
        yield set_up(server, tmp_path_factory.mktemp("killed"))
    finally:
        server.remove()


@pytest.fixture(scope="module")
def durations(scene) -> dict[str, float]:
    """Seconds that restore and swap take when nobody interferes."""
    run = next_id()
    process, told = scene.start(run), {}
    for line in process.stdout:
        told[line.strip()] = time.monotonic()
    assert process.wait() == 0
    assert scene.look(run)
    scene.reset(copies.copy_name(DATABASE, copies.BEFORE, run))
    return {"restore": told["swap"] - told["restore"], "swap": told["done"] - told["swap"]}


def reach(process: subprocess.Popen[str], stage: str) -> None:
    while (line := process.stdout.readline().strip()) != stage:
        assert line, process.stderr.read()


def kill(process: subprocess.Popen[str]) -> bool:
    """SIGKILL; True when it had come to its end before."""
    with process:
        process.kill()
        return "done" in process.stdout.read()


class Client(threading.Thread):
    """Connects and writes fifty times a second, and remembers what it was told is committed."""

    def __init__(self, scene: Scene, first: int) -> None:
        super().__init__()
        self.scene, self.first, self.acknowledged, self.stopping = scene, first, set(), threading.Event()

    def run(self) -> None:
        number = self.first
        while not self.stopping.wait(0.02):
            number += 1000
            with suppress(psycopg.Error), self.scene.cluster.connect(DATABASE, user=VISITOR) as session:
                session.execute(f"INSERT INTO {WRITES} VALUES (%s)", [number])
                self.acknowledged.add(number)

    def goes_on(self) -> None:
        before = len(self.acknowledged)
        wait_for(lambda: len(self.acknowledged) > before + 5)

    def __enter__(self) -> Client:
        self.start()
        self.goes_on()
        return self

    def __exit__(self, *nothing: object) -> None:
        self.stopping.set()
        self.join()


def written(scene: Scene) -> set[int]:
    """What clients wrote, in whichever database it is."""
    found = set()
    for name in [DATABASE, *(copies.copy_name(DATABASE, *one) for one in scene.left())]:
        with scene.cluster.connect(name) as session:
            found |= {number for (number,) in session.execute(f"SELECT id FROM {WRITES}")}
    return found


def kill_at(scene: Scene, durations: dict[str, float], moment: tuple[str, float]) -> list[str]:
    """Kill a run at a moment and look; returns the run if it has swapped."""
    run, (stage, part) = next_id(), moment
    process = scene.start(run)
    reach(process, stage)
    time.sleep(part * durations[stage])
    came_to_its_end = kill(process)
    swapped = scene.look(run)
    assert swapped or not came_to_its_end
    return [run] if swapped else []


# Five moments each.
@pytest.mark.long
@pytest.mark.parametrize(("seed", "clients"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_killed_at_random_moments(scene, durations, seed, clients):
    """With clients that reconnect fifty times a second, too: they lose nothing, and the next run gets past them."""
    chance = random.Random(seed)  # noqa: S311
    for stage, longest in (RESTORE, RESTORE, RESTORE, SWAP, SWAP):
        with ExitStack() as stopping:
            writing = [stopping.enter_context(Client(scene, number)) for number in range(1, clients + 1)]
            original = scene.goes_on(kill_at(scene, durations, (stage, chance.uniform(0, longest))))
            for client in writing:
                client.goes_on()
        found = written(scene)
        assert [client.acknowledged - found for client in writing] == [set()] * clients
        scene.reset(original)


def incoming(run: str) -> str:
    return copies.copy_name(DATABASE, copies.RESTORE, run)


@contextmanager
def held_up(scene: Scene, moment: str) -> Iterator[tuple[str, subprocess.Popen[str], int]]:
    """A run that stands still in the middle of its swap: its id, its process and its renaming backend's pid.

    A superuser's session is one that it may not end: in the database it holds up the first rename, in the incoming one
    the second. At its COMMIT it waits for a standby that does not exist.
    """
    run = next_id()
    name = {"first": DATABASE, "second": incoming(run), "commit": "postgres"}[moment]
    with scene.start(run, "swap") as process:
        reach(process, "swap")
        setting = "synchronous_commit" if moment == "commit" else "test.nothing"
        with owner_with(scene, setting, "IN DATABASE postgres"), scene.cluster.connect(name):
            process.stdin.write("\n")
            process.stdin.flush()
            try:
                yield run, process, scene.renaming(run, name, moment == "commit")
            finally:
                process.kill()


@contextmanager
def owner_with(scene: Scene, setting: str, where: str = "") -> Iterator[None]:
    """A setting that is on in the owner's new sessions."""
    role = f"ALTER ROLE {OWNER} {where}"
    with scene.cluster.connect() as admin:
        admin.execute(f"{role} SET {setting} = on")
    yield
    with scene.cluster.connect() as admin:
        admin.execute(f"{role} RESET {setting}")


@pytest.mark.parametrize("moment", [FIRST, "second"])
def test_killed_in_the_middle_of_a_rename(scene, moment):
    with held_up(scene, moment) as (run, process, _):
        process.kill()
        assert not scene.look(run)
    assert scene.left() == {(copies.RESTORE, run)}
    scene.reset(scene.goes_on([]))


@pytest.mark.parametrize("moment", [FIRST, "second", "commit"])
def test_the_session_that_renames_is_ended(scene, moment):
    """The run lives on and has to tell what became of it."""
    with held_up(scene, moment) as (run, process, pid):
        assert scene.ask("SELECT pg_terminate_backend(%s)", pid) == [(True,)]
        said, error = process.communicate(timeout=170)
        assert scene.look(run) == (moment == "commit")
    if moment == "commit":
        assert (said, error) == ("done\n", "")
    else:
        assert (process.returncode, said, error) == (1, "", "the connection to the server was lost\n")
    scene.reset(scene.goes_on([run] if moment == "commit" else []))


@pytest.mark.parametrize("moment", [FIRST, "second", "commit"])
def test_the_server_is_killed_during_the_swap(scene, moment):
    """The backend that renames may outlive its server by a moment, and get through since nobody is in its way."""
    with held_up(scene, moment) as (run, process, _):
        scene.server.kill()
        scene.server.start()
        said, error = process.communicate(timeout=170)
        swapped = scene.look(run)
    assert swapped or moment != "commit"
    if "does not answer" not in error:
        assert (said, error) == (("done\n", "") if swapped else ("", "the connection to the server was lost\n"))
    scene.reset(scene.goes_on([run] if swapped else []))


def test_the_server_is_killed_during_the_restore(scene):
    run = next_id()
    with owner_with(scene, "test.slow"), scene.start(run) as process:
        wait_for(lambda: any("CREATE INDEX slow" in query for _, query in scene.sessions(run)))
        scene.server.kill()
        scene.server.start()
        said, error = process.communicate(timeout=170)
    assert (process.returncode, said, error.count("\n")) == (1, "restore\n", 1)
    assert error.startswith(f"backup {scene.told['id']} could not be restored into database {incoming(run)}: ")
    assert not scene.look(run)
    scene.reset(scene.goes_on([]))


@contextmanager
def small_disk(scene: Scene) -> Iterator[tuple[Scene, Path]]:
    """The database on a disk with room for half of its rows again; yields the scene there, and the disk's folder."""
    folder, manifest = scene.server.folder / "small", scene.backups / f"{scene.told['id']}.json"
    properties = {**scene.told["database"]["properties"], "tablespace": "small"}
    told = {**scene.told, "database": {**scene.told["database"], "properties": properties}}
    usual = manifest.read_bytes()
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", folder], capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("this user may not mount a small file system")
    with scene.cluster.connect() as admin:
        try:
            postgres.give_to_server(folder)
            admin.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
            admin.execute(f"GRANT CREATE ON TABLESPACE small TO {OWNER}")
            admin.execute(f"ALTER DATABASE {DATABASE} SET TABLESPACE small")
            manifest.write_text(json.dumps(told))
            small = replace(scene, told=told, before=contents(scene.cluster, DATABASE))
            # An empty database takes less than its size: there are holes in its files until the next checkpoint.
            admin.execute("CREATE DATABASE empty TEMPLATE template0 TABLESPACE small")
            size = "SELECT pg_database_size(%s) - pg_database_size('template0')"
            resize(folder, used(folder) + admin.execute(size, [DATABASE]).fetchone()[0] // 2)
            admin.execute("DROP DATABASE empty")
            yield small, folder
        finally:
            manifest.write_bytes(usual)
            resize(folder, 200_000_000)
            for copy in copies.list_copies(admin, DATABASE):
                admin.execute(f"DROP DATABASE {quoted(copy.name)} WITH (FORCE)")
            admin.execute(f"ALTER DATABASE {DATABASE} SET TABLESPACE pg_default")
            admin.execute("DROP TABLESPACE IF EXISTS small")
            subprocess.run(["umount", folder], check=True)
            folder.rmdir()


def used(folder: Path) -> int:
    return shutil.disk_usage(folder).used


def resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


def test_the_disk_of_the_server_is_full(scene):
    """The database is on that disk as well; there is room again as soon as the run has ended."""
    with small_disk(scene) as (small, folder):
        run = next_id()
        with small.start(run) as process:
            said, error = process.communicate(timeout=170)
        assert (process.returncode, said) == (1, "restore\n")
        assert "a disk is full, the database server's or this host's; make room\n" in error
        assert error.count("\n") == 1
        assert not small.look(run)
        assert small.left() == set()
        resize(folder, 200_000_000)
        small.reset(small.goes_on([]))
