"""A server of its own for tests of the two roles, and the module that makes them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import roles
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted

from demo.embedded import postgres
from tests.conftest import Cluster
from tests.integration import module_process
from tests.waiting import wait_for

RUN = "20261122t100221z-k3f"
OWNER, APP = "h_owner", "h_app"
OWNER_PASSWORD, APP_PASSWORD = "0wner'\\ pässword", "4pp $ecret ℌ"


class Server(Cluster):
    """A server of these tests' own: its roles are nobody else's, and all but the superuser need a password."""

    def login(self, user: str, password: str, database: str, **more: Any) -> psycopg.Connection:
        return self.connect(database, user=user, password=password, **more)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="habitat-pg-"))
    postgres.init_cluster(folder / "data", "postgres")
    rules = "local all postgres trust\nlocal all all scram-sha-256\n"
    (folder / "data/pg_hba.conf").write_text(rules)
    settings = ["listen_addresses=", "fsync=off", "log_statement=all", "max_connections=60"]
    options = [word for setting in settings for word in ("-c", setting)]
    command = postgres.server_command("postgres", "-D", str(folder / "data"), "-k", str(folder), *options)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    running = Server(folder, 5432, process.pid)
    wait_for(running.answers)
    yield running
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    shutil.rmtree(folder)


@pytest.fixture
def admin(server) -> Iterator[psycopg.Connection]:
    """A superuser's session; afterwards the database and every role but the superuser are gone."""
    with server.connect() as session:
        yield session
        for (name,) in session.execute("SELECT datname FROM pg_database WHERE datname ~ '^habitat'").fetchall():
            session.execute(f"DROP DATABASE {quoted(name)} WITH (FORCE)")
        for (name,) in session.execute("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND oid <> 10").fetchall():
            session.execute(f"DROP OWNED BY {quoted(name)}; DROP ROLE {quoted(name)}")


def made(session: psycopg.Connection, *statements: str) -> None:
    """Run statements one by one: CREATE DATABASE stands in no transaction."""
    for statement in statements:
        session.execute(statement)


def given(server: Server, **options: Any) -> dict[str, Any]:
    """The module's options."""
    usual = {
        "login_db": "habitat",
        "login_unix_socket": str(server.folder),
        "env": "local",
        "run_id": RUN,
        "owner": OWNER,
        "owner_password": OWNER_PASSWORD,
        "writer_roles": [APP],
        "writer_passwords": {APP: APP_PASSWORD},
    }
    return {**usual, **options}


@pytest.fixture
def ensure(server, admin):
    """What the module does, in this process, which takes a tenth of the time."""

    def run(check: bool = False, user: str = "postgres", **options: Any) -> dict[str, Any]:
        asked = {"take_over": True, "grant_app": False, **given(server, **options)}
        wish = roles.Wish(
            database=asked["login_db"],
            owner=asked["owner"],
            writers=asked["writer_roles"],
            passwords={asked["owner"]: asked["owner_password"], **asked["writer_passwords"]},
            take_over=asked["take_over"],
            grant_app=asked["grant_app"],
        )
        session = {"user": user, "password": "x", "application_name": f"runbook/{RUN}"}
        try:
            with server.connect(**session) as ours:
                outcome = roles.ensure(ours, lambda name: server.connect(name, **session), wish, check)
        except roles.RolesError as error:
            return {"failed": True, "msg": str(error)}
        return {"changed": bool(outcome.steps), **outcome.as_data()}

    return run


@pytest.fixture
def module(server, admin):
    """The module as Ansible runs it; called with options that are not the usual ones it returns its result."""

    def run(check: bool = False, **options: Any) -> dict[str, Any]:
        result = module_process.run("database_roles", check, **given(server, **options))
        shown = json.dumps(result)
        secrets = (OWNER_PASSWORD, APP_PASSWORD, "SCRAM-SHA-256$")
        assert not [secret for secret in secrets if json.dumps(secret)[1:-1] in shown]
        assert not (check and result.get("failed")), result
        return result

    return run


def refused(result: dict[str, Any]) -> str:
    assert result.get("failed") is True, result
    assert "Traceback" not in json.dumps(result)
    return result["msg"]


def done(result: dict[str, Any]) -> dict[str, list[str]]:
    assert not result.get("failed"), result["msg"]
    return {kind: result[kind] for kind in ("created", "altered", "granted")}


NOTHING: dict[str, list[str]] = {"created": [], "altered": [], "granted": []}
