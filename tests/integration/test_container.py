"""The database in a container: found by its labels, reached over the network or by a bridge, with the right password."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import bridge, container
from ansible_collections.habitat.runbook.plugins.module_utils.docker import DockerError

from tests.integration.module_process import begin, finish
from tests.waiting import wait_for

# They need a Docker engine, and their time goes to containers.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("engine")]

IMAGE = "habitat-demo/postgres:15"
SECRET = "c4n4ry'\\ pässword"
LABEL = "com.docker.compose."
PREFIX = f"adr-{os.getpid()}"

# A module like those of a run: it connects as they do, asks, and says with what it got in.
MODULE = """
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils import database
module = AnsibleModule(argument_spec=database.database_argument_spec())
given = database.connection_parameters(module, "20261122t100211z-k3f")
with database.open_connection(module, given) as connection:
    row = connection.execute("SELECT current_user, pg_catalog.host(pg_catalog.inet_server_addr())").fetchone()
    module.exit_json(row=list(row), host=given["host"], with_password="password" in given)
"""


def docker(*arguments: str) -> str:
    """What the docker command prints; of ``docker logs`` what went to standard error, too."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(["docker", *arguments], text=True, check=False, **streams)
    assert done.returncode == 0, done
    return done.stdout.strip()


def module(folder: Path, service: str, login_user: str = "postgres", **options: str) -> dict[str, Any]:
    where = {"folder": str(folder), "file": "compose.yml", "service": service}
    given = {"login_db": "postgres", "login_user": login_user, "container": where, **options}
    answer = finish(begin([sys.executable, "-c", MODULE], given))
    assert json.dumps(SECRET)[1:-1] not in json.dumps(answer)
    return answer


@dataclasses.dataclass(frozen=True)
class Project:
    """Containers with the labels that Compose gives them; a service's container is named PREFIX-service."""

    folder: Path

    def start(self, service: str, *options: str, number: int = 1, verb: str = "run", command: str = "postgres") -> str:
        labels = {
            "service": service,
            "oneoff": "False",
            "project.working_dir": self.folder,
            "project.config_files": self.folder / "compose.yml",
        }
        given = [f"--label={LABEL}{name}={value}" for name, value in labels.items()]
        name = f"--name={PREFIX}-{service}-{number}"
        verbs = [verb, "--detach"] if verb == "run" else [verb]
        return docker(*verbs, "--env=PGDATA=/tmp/data", name, *given, *options, IMAGE, *command.split())

    def psql(self, service: str, statement: str) -> str:
        command = ["psql", "--username=postgres", "--no-psqlrc", "-qAt", "--set=ON_ERROR_STOP=1", "-c", statement]
        return docker("exec", f"{PREFIX}-{service}-1", *command)

    def relays(self, service: str) -> int:
        return docker("top", f"{PREFIX}-{service}-1", "-o", "pid,args").count(bridge.SOCKET)

    def reach(self, service: str, user: str = "postgres", password: str | None = None) -> tuple[container.Reached, Any]:
        container.find.cache_clear()
        return container.reach(container.find(str(self.folder), "compose.yml", service), user, password)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Iterator[Project]:
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker Engine answers here")
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        pytest.skip(f"image {IMAGE} is not there: make images")
    made = Project(tmp_path_factory.mktemp("project"))
    secret = made.folder / "secret"
    secret.write_text(f"{SECRET}\n")
    try:
        made.start("inner", f"--env=POSTGRES_PASSWORD={SECRET}")
        file = ("--env=POSTGRES_PASSWORD_FILE=/run/secrets/password", f"--volume={secret}:/run/secrets/password:ro")
        made.start("published", "--publish=127.0.0.1::5432", *file)
        for service in ("inner", "published"):
            ready = ["docker", "exec", f"{PREFIX}-{service}-1", "pg_isready", "-q", "-h", "127.0.0.1"]
            wait_for(lambda ready=ready: not subprocess.run(ready, check=False, capture_output=True).returncode)
        made.psql("inner", "CREATE ROLE habitat_owner LOGIN PASSWORD 'another'")
        yield made
        # PostgreSQL is the container's first process: an orphan of ours that ends by a signal is a crash to it.
        for service in ("inner", "published"):
            assert "terminated by signal" not in docker("logs", f"{PREFIX}-{service}-1")
    finally:
        there = docker("ps", "--all", "--quiet", f"--filter=label={LABEL}project.working_dir={made.folder}").split()
        if there:
            docker("rm", "--force", "--volumes", *there)


@contextlib.contextmanager
def bridged(project: Project, idle: float = 20.0) -> Iterator[Path]:
    """A bridge of the test's own to service inner; it is ended with the test."""
    there = container.find(str(project.folder), "compose.yml", "inner")
    base = Path(f"/tmp/{PREFIX}")
    base.mkdir(mode=0o700, exist_ok=True)
    folder = bridge.open_bridge(there.id, 5432, str(base), idle)
    try:
        yield folder
    finally:
        for pid in bridge_pids(folder):
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not folder.exists() or not bridge_pids(folder))
        shutil.rmtree(base)


def bridge_pids(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
    return found


def session(folder: Path, name: str = "mine") -> psycopg.Connection:
    options = "-c client_connection_check_interval=500ms"
    given = {"host": str(folder), "user": "postgres", "options": options, "application_name": name}
    return psycopg.connect(**given, autocommit=True)


def backends(project: Project, name: str = "mine") -> int:
    query = f"SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE application_name = '{name}'"
    return int(project.psql("inner", query))


def client(folder: Path, work: str) -> subprocess.Popen[str]:
    """A process of its own with a session through the bridge; it says when it is about to do the work."""
    script = f"""
import psycopg, sys
from tests.waiting import wait_for
options = "-c client_connection_check_interval=500ms"
connection = psycopg.connect(host=sys.argv[1], user="postgres", application_name="mine", options=options)
print("there", flush=True)
{work}
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "there\n"
    return process


def test_an_address_on_its_network_with_the_password_of_its_environment(project):
    reached, password = project.reach("inner")
    assert password == SECRET and SECRET not in repr(reached)
    assert reached.how == f"container {PREFIX}-inner-1 at {reached.host}:5432"
    answer = module(project.folder, "inner")
    assert answer["row"] == ["postgres", reached.host] and answer["with_password"]


def test_a_published_port_with_the_password_in_a_file(project):
    answer = module(project.folder, "published")
    assert answer["row"][0] == "postgres" and answer["host"] == "127.0.0.1" and answer["with_password"]
    reached, _ = project.reach("published")
    assert reached.password_from == f"/run/secrets/password in container {PREFIX}-published-1 (POSTGRES_PASSWORD_FILE)"
    assert reached.port == int(docker("port", reached.id, "5432/tcp").rpartition(":")[2])


def test_a_given_password_wins_and_a_wrong_one_is_not_got_round(project):
    assert module(project.folder, "inner", "habitat_owner", login_password="another")["row"][0] == "habitat_owner"
    for user in ("postgres", "habitat_owner"):
        answer = module(project.folder, "inner", user, login_password="wr0ng")
        start = f"cannot connect to database postgres at container {PREFIX}-inner-1 at "
        assert answer["msg"].startswith(start) and " with login_password: " in answer["msg"]
        assert f'password authentication failed for user "{user}"' in answer["msg"]
        assert answer["msg"].endswith(
            "correct login_password if it is wrong, or leave it out: the container then says how to get in"
        )
        assert "wr0ng" not in json.dumps(answer)


def test_roles_without_a_known_password_and_stale_passwords_go_through_the_socket_inside(project):
    assert project.reach("inner", "habitat_owner")[1] is None
    answer = module(project.folder, "inner", "habitat_owner")
    assert answer["row"] == ["habitat_owner", None] and not answer["with_password"]
    project.psql("inner", "ALTER ROLE postgres PASSWORD 'changed since'")
    try:
        answer = module(project.folder, "inner")
    finally:
        project.psql("inner", f"ALTER ROLE postgres PASSWORD $${SECRET}$$")
    assert answer["row"] == ["postgres", None] and not answer["with_password"]


def test_what_is_not_there_or_not_running_is_one_sentence(project):
    folder, there = str(project.folder), PREFIX
    assert "no container, only inner, published have one" in module(project.folder, "db")["msg"]
    docker("pause", f"{there}-published-1")
    try:
        assert module(project.folder, "published")["msg"].endswith(
            f"is paused; see to it: docker unpause {there}-published-1"
        )
    finally:
        docker("unpause", f"{there}-published-1")
    project.start("twice", verb="create")
    try:
        sentence = f"container {there}-twice-1 of the database is created; see to it: docker start {there}-twice-1"
        assert module(project.folder, "twice")["msg"] == sentence
        project.start("twice", verb="create", number=2)
        assert module(project.folder, "twice")["msg"] == (
            f"service twice of {folder} has 2 containers ({there}-twice-1, {there}-twice-2), a database has one"
        )
    finally:
        docker("rm", "--force", "--volumes", f"{there}-twice-1", f"{there}-twice-2")


def test_a_given_password_needs_an_address_that_answers(project):
    for network, sentence in {
        "none": "no address on this host; publish its port",
        "bridge": r"does not answer at \S+:5432; see docker logs",
    }.items():
        project.start("mute", f"--network={network}", command="sleep 600")
        try:
            with pytest.raises(DockerError, match=sentence):
                project.reach("mute", "postgres", "given")
            assert project.reach("mute")[0].host is None
        finally:
            docker("rm", "--force", "--volumes", f"{PREFIX}-mute-1")


def test_a_new_address_is_found_after_a_restart(project):
    before = project.reach("inner")[0].host
    docker("stop", f"{PREFIX}-inner-1")
    taker = project.start("taker", command="sleep 600")
    try:
        docker("start", f"{PREFIX}-inner-1")
        wait_for(lambda: project.reach("inner")[0].host is not None)
        after = project.reach("inner")[0].host
        assert after != before
        wait_for(lambda: module(project.folder, "inner").get("row") == ["postgres", after])
    finally:
        docker("rm", "--force", "--volumes", taker)


def test_room_and_files_are_seen_inside(project):
    reached, _ = project.reach("published")
    free = container.data_free(reached.id)
    assert free is not None and free > 1 << 20
    assert free % 1024 == 0 and container.data_free("f" * 64) is None
    assert container.read_file(reached.id, "/run/secrets/password") == f"{SECRET}\n".encode()
    with pytest.raises(DockerError, match="No such file"):
        container.read_file(reached.id, "/nowhere")


def test_no_secret_is_in_any_argument(project):
    seen: set[bytes] = set()
    with ThreadPoolExecutor() as pool:
        work = pool.submit(module, project.folder, "published")
        while not work.done():
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(entry.read_bytes())
    assert work.result()["with_password"]
    assert any(b"\0cat\0--\0/run/secrets/password" in one for one in seen)
    assert not any(SECRET.encode() in one for one in seen)


@pytest.mark.parametrize("relay", ["perl", "bash"])
def test_binary_data_passes_unchanged_both_ways_for_several_at_once(project, relay):
    data = os.urandom(1 << 20) * 50
    if relay == "bash":
        docker("exec", f"{PREFIX}-inner-1", "mv", "/usr/bin/perl", "/usr/bin/perl.away")
    try:
        with bridged(project) as folder, ThreadPoolExecutor() as pool:
            work = pool.map(lambda number: carry(folder, data if number == 0 else data[: 1 << 20]), range(4))
            assert list(work) == [True] * 4
    finally:
        if relay == "bash":
            docker("exec", f"{PREFIX}-inner-1", "mv", "/usr/bin/perl.away", "/usr/bin/perl")


def carry(folder: Path, data: bytes) -> bool:
    copied = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    for start in range(0, len(data), 1 << 20):
        part = data[start : start + (1 << 20)]
        copied += b"\0\x01" + len(part).to_bytes(4, "big") + part
    copied += b"\xff\xff"
    with session(folder) as connection:
        connection.execute("CREATE TEMPORARY TABLE carried (part bytea)")
        with connection.cursor().copy("COPY carried FROM STDIN (FORMAT binary)") as copy:
            copy.write(copied)
        with connection.cursor().copy("COPY carried TO STDOUT (FORMAT binary)") as copy:
            return b"".join(bytes(block) for block in copy) == copied


def test_both_directions_go_on_when_both_are_full(project):
    # More than all buffers hold, in each direction, before the client asks for any answer.
    work = """
with connection.pipeline():
    cursors = [connection.execute("SELECT %s::text, repeat('x', 200000)", ["y" * 200000]) for _ in range(100)]
    assert sum(len(cursor.fetchone()[0]) for cursor in cursors) == 100 * 200000
"""
    with bridged(project) as folder:
        process = client(folder, work)
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()


WORK = {
    "idle": "import time; time.sleep(600)",
    "waiting": "connection.execute('SELECT pg_sleep(600)')",
    "sending": """
with connection.pipeline():
    connection.execute('SELECT pg_sleep(600)')
    for _ in range(40):
        connection.execute('SELECT %s::text', ['x' * 100000])
""",
}


@pytest.mark.parametrize("work", WORK)
def test_a_killed_client_takes_its_backend_along(project, work):
    with bridged(project) as folder:
        process = client(folder, WORK[work])
        wait_for(lambda: backends(project) == 1)
        time.sleep(0.5 if work == "sending" else 0)
        process.kill()
        process.wait()
        wait_for(lambda: backends(project) == 0)
        wait_for(lambda: project.relays("inner") == 0)


def test_a_killed_bridge_takes_everything_along_and_the_next_one_takes_over(project):
    with bridged(project) as folder:
        process = client(folder, WORK["waiting"])
        wait_for(lambda: backends(project) == 1)
        os.kill(bridge_pids(folder)[0], signal.SIGKILL)
        wait_for(lambda: backends(project) == 0)
        wait_for(lambda: project.relays("inner") == 0)
        process.wait(15)
        with bridged_again(project, folder) as again, session(again) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


@contextlib.contextmanager
def bridged_again(project: Project, folder: Path) -> Iterator[Path]:
    there = container.find(str(project.folder), "compose.yml", "inner")
    assert bridge.open_bridge(there.id, 5432, str(folder.parent)) == folder
    yield folder


def test_one_that_is_there_is_used_again_and_an_idle_one_ends(project):
    with bridged(project, idle=1.0) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        pids = bridge_pids(folder)
        with bridged_again(project, folder), session(folder):
            time.sleep(2.5)  # longer than idle: a connection keeps it
            assert bridge_pids(folder) == pids and len(pids) == 1
        wait_for(lambda: not folder.exists())
        wait_for(lambda: not bridge_pids(folder))


def test_of_many_starters_one_bridge_comes(project):
    base = Path(f"/tmp/{PREFIX}-many")
    base.mkdir(mode=0o700)
    there = container.find(str(project.folder), "compose.yml", "inner")
    script = "import sys; from ansible_collections.habitat.runbook.plugins.module_utils.bridge import open_bridge as o;"
    script += "import psycopg; psycopg.connect(host=str(o(sys.argv[1], 5432, sys.argv[2], 0.2)), user='postgres')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, there.id, str(base)]
    try:
        # Bridges that end at once, so that some are looked for while they end.
        for _ in range(2):
            processes = [subprocess.Popen(command, env=environment) for _ in range(6)]
            assert [process.wait(60) for process in processes] == [0] * 6
        wait_for(lambda: not list(base.iterdir()))
    finally:
        shutil.rmtree(base)


def test_why_there_is_no_way_through_is_said(project):
    with bridged(project) as folder:
        docker("stop", f"{PREFIX}-inner-1")
        try:
            with pytest.raises(psycopg.OperationalError, match="is not running"):
                session(folder)
        finally:
            docker("start", f"{PREFIX}-inner-1")
            wait_for(lambda: project.reach("inner")[0].host is not None)
