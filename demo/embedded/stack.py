"""The verbs of the stack: up, down, destroy, status."""

from __future__ import annotations

import fcntl
import http.client
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg

from demo.embedded import postgres, processes, state
from demo.embedded.state import Stack, StackError

_START_SECONDS = 60
_HEALTH_SECONDS = 120


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One command at a time; a second one waits."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(folder: Path) -> Stack:
    """Start whatever does not run and return when PostgreSQL and both API processes answer."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(folder):
        stack = state.load(folder) or state.create(folder)
        if not processes.is_running(stack):
            processes.clear_leftovers(stack)
            state.prepare_folders(stack)
            stack = state.refreshed(stack)
            _ensure_cluster(stack)
            processes.write_files(stack)
            processes.start_supervisor(stack)
        processes.start(stack, "postgres")
        processes.wait_until(lambda: _accepts(stack), _START_SECONDS, _not_up(stack, "PostgreSQL", "postgres"))
        ensure_database(stack)
        processes.start(stack, *stack.services)
        for url, name in zip(stack.health_urls, ("api1", "api2"), strict=True):
            processes.wait_until(partial(_is_healthy, url), _HEALTH_SECONDS, _not_up(stack, url, name))
    return stack


def _not_up(stack: Stack, what: str, name: str) -> str:
    return f"{what} does not answer; see {stack.file(name + '.log')}"


def _ensure_cluster(stack: Stack) -> None:
    """Make the cluster, under its final name only when that is complete."""
    data = Path(stack.data)
    if data.exists():
        return
    part = data.with_name("data.part")
    if part.exists():
        shutil.rmtree(part)
    postgres.init_cluster(part, stack.superuser, programs=Path(stack.server_bin_dir))
    part.rename(data)


def ensure_database(stack: Stack) -> None:
    """Once in the life of the cluster make the roles and the database; what is missing later was taken away.

    The owner may do everything in its database, make others and end sessions; the application may only log in.
    """
    # Its number changes with the rights, so that an older stack gets the newer ones.
    ready = Path(stack.data).with_name("ready-2")
    if ready.exists():
        return
    passwords = {stack.owner: stack.owner_password, stack.app_user: stack.app_password}
    with _superuser_connection(stack) as admin:
        for role, password in passwords.items():
            if not admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).rowcount:
                admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{_scram(admin, role, password)}'")
        # The runbook names long transactions of others, copies and renames the database, and ends sessions meanwhile.
        admin.execute(f"GRANT pg_read_all_stats, pg_signal_backend TO {stack.owner}")
        admin.execute(f"ALTER ROLE {stack.owner} CREATEDB")
        if not admin.execute("SELECT FROM pg_database WHERE datname = %s", [stack.database]).rowcount:
            admin.execute(f"CREATE DATABASE {stack.database} OWNER {stack.owner}")
    ready.touch()


def _scram(admin: psycopg.Connection, role: str, password: str) -> str:
    """The password as the server keeps it, so that no log can show the password itself."""
    return admin.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()


def _superuser_connection(stack: Stack) -> psycopg.Connection:
    return psycopg.connect(
        host=stack.socket_folder,
        port=stack.port,
        dbname="postgres",
        user=stack.superuser,
        connect_timeout=5,
        autocommit=True,
    )


def _accepts(stack: Stack) -> bool:
    try:
        _superuser_connection(stack).close()
    except psycopg.OperationalError:
        return False
    return True


def health(url: str) -> tuple[int, dict[str, object]]:
    """HTTP status and body of a health address; status 0 when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:  # noqa: S310 - the address is our own
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}


def _is_healthy(url: str) -> bool:
    return health(url)[0] == 200


def down(folder: Path) -> bool:
    """Stop everything and leave the data; False when there is no stack."""
    if not folder.exists() or not (stack := state.load(folder)):
        return False
    with locked(folder):
        if processes.is_running(stack):
            processes.shut_down(stack)
        processes.clear_leftovers(stack)
    return True


def destroy(folder: Path) -> bool:
    """Stop everything and remove it from the disk; False when there was nothing."""
    if not down(folder):
        return False
    stack = state.load(folder)
    if stack:
        state.remove(stack)
    return True


def status(folder: Path) -> tuple[bool, list[str]]:
    """Whether everything answers, and a line for each part."""
    stack = state.load(folder)
    if not stack:
        return False, ["There is no stack here; make one with: python -m demo.embedded up"]
    if not processes.is_running(stack):
        return False, ["The stack does not run; start it with: python -m demo.embedded up"]
    found = processes.states(stack)
    details = {"postgres": f"{stack.host}:{stack.port}, database {stack.database}"}
    answers = {}
    for name, url in zip(("habitat:api1", "habitat:api2"), stack.health_urls, strict=True):
        code, body = health(url)
        answers[name] = code == 200
        word = f"ok, schema {body['schema_version'] or 'none'}" if code == 200 else body.get("error", "no answer")
        details[name] = f"{url}  {word}"
    lines = [f"{name:<16}{found[name]:<10}{details.get(name, '')}".rstrip() for name in ("postgres", *stack.services)]
    return all(answers.values()) and set(found.values()) == {"RUNNING"}, lines


def app_connection(stack: Stack) -> psycopg.Connection:
    """A connection as the application's role, over the socket."""
    return psycopg.connect(
        host=stack.socket_folder,
        port=stack.port,
        dbname=stack.database,
        user=stack.app_user,
        application_name="habitat-seed",
        autocommit=True,
    )


def require_running(folder: Path) -> Stack:
    """The stack in a folder; raises StackError when it does not run."""
    stack = state.load(folder)
    if not stack or not processes.is_running(stack):
        raise StackError("The stack does not run; start it with: python -m demo.embedded up")
    return stack
