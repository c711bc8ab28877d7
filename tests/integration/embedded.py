"""A stack for tests: the real commands, in a folder of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from demo.embedded import state
from tests.integration.habitat import LEDGER, REPOSITORY, apply


class Runner:
    """The commands of one stack."""

    def __init__(
        self, folder: Path, checkout: Path = REPOSITORY, python: tuple[str, ...] = (sys.executable,), **environment: str
    ) -> None:
        self.folder = folder
        self._checkout = checkout
        self._python = python
        self.environment = {**os.environ, "HABITAT_RUNTIME": str(folder), **environment}

    def __call__(self, verb: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._python, "-m", "demo.embedded", verb],
            cwd=self._checkout,
            env=self.environment,
            text=True,
            capture_output=True,
            check=False,
        )

    def ok(self, verb: str) -> str:
        done = self(verb)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    @property
    def stack(self) -> state.Stack:
        return state.Stack(**json.loads((self.folder / "stack.json").read_text()))

    def control(self, *order: str) -> str:
        command = [self.stack.supervisorctl, "-c", self.stack.supervisor_conf, *order]
        return subprocess.run(command, text=True, capture_output=True, check=False).stdout

    def pid(self, program: str) -> int:
        return int(self.control("pid", program))

    def superuser(self) -> psycopg.Connection:
        stack = self.stack
        return psycopg.connect(host=stack.socket_folder, port=stack.port, user=stack.superuser, autocommit=True)

    def owner(self) -> psycopg.Connection:
        stack = self.stack
        return psycopg.connect(
            host=stack.host,
            port=stack.port,
            dbname=stack.database,
            user=stack.owner,
            password=stack.owner_password,
            autocommit=True,
        )


@contextmanager
def migrated_stack() -> Iterator[Runner]:
    """A stack that is up, with all migrations applied."""
    folder = Path(tempfile.mkdtemp(prefix="hs-"))
    run = Runner(folder / "local")
    try:
        run.ok("up")
        with run.owner() as session:
            session.execute(LEDGER)
            apply(session)
            session.execute("INSERT INTO schema_migrations (version) VALUES ('9'), ('07')")
        yield run
    finally:
        run.ok("destroy")
        folder.rmdir()


def call(url: str, body: bytes | dict | None = None) -> tuple[int, dict]:
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    request = urllib.request.Request(url, data)  # noqa: S310 - the addresses are our own
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def api(run: Runner, process: int = 0) -> str:
    return run.stack.health_urls[process].removesuffix("/health")
