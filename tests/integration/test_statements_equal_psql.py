"""For every nasty file: the statements we split are the ones ``psql -f`` really sends to a server.

The server under test logs every statement it gets; statements may fail there, what counts is what was sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import split
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement

from demo.embedded import postgres
from tests.waiting import wait_for

NASTY = sorted((Path(__file__).parent / "nasty").glob("*.sql"))
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "logging_collector": "on",
    "log_destination": "jsonlog",
    "log_directory": "log",
    "log_filename": "sent",
    "log_statement": "all",
    "log_disconnections": "on",
}
# psql keeps comments and empty statements around what it sends; we do not.
NOISE = re.compile(r"(?:[\s;]|--[^\n]*|/\*(?:[^*/]|\*(?!/)|/(?!\*)|/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/)*\*/)*")


@dataclass(frozen=True)
class LoggingServer:
    folder: Path

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres", autocommit=True)

    def run(self, name: str, file: Path) -> None:
        """``psql -f file`` in an empty schema, as a session that calls itself ``name``."""
        self.empty()
        command = [postgres.tool("psql"), "-X", "-q", "-h", str(self.folder), "-U", "postgres", "-d", "postgres"]
        environment = {**os.environ, "PGAPPNAME": name, "PGCLIENTENCODING": "UTF8"}
        subprocess.run([*command, "-f", str(file)], env=environment, capture_output=True, check=False)

    def empty(self) -> None:
        with self.connect() as session:
            session.execute("DROP SCHEMA IF EXISTS public, copy, s, e1 CASCADE; CREATE SCHEMA public")

    def rows(self) -> dict[str, list[str]]:
        """Every row of every table, as text without CR (files are read with line ends LF)."""
        tables = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text !~ '^(pg_|inf)'"
        with self.connect() as session:
            names = [name for (name,) in session.execute(tables)]
            return {
                name: sorted(row.replace("\r", "") for (row,) in session.execute(f"SELECT t::text FROM {name} t"))  # type: ignore[arg-type]
                for name in names
            }

    def sent(self, name: str) -> list[str]:
        """The statements that the session called ``name`` sent, in order."""
        return _statements(wait_for(lambda: self._whole(name)))

    def _whole(self, name: str) -> list[dict]:
        """What the log has of a session once that is over; nothing before."""
        lines = (self.folder / "data/log/sent.json").read_text().splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
        mine = [entry for entry in entries if entry.get("application_name") == name]
        return mine if any(entry["message"].startswith("disconnection:") for entry in mine) else []

    def answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            self.connect().close()
            return True
        return False


def _statements(entries: list[dict]) -> list[str]:
    found: list[str] = []
    executed = False
    for entry in entries:
        if entry["message"].startswith("statement: "):
            found.append(entry["message"].removeprefix("statement: "))
            executed = True
        elif entry["error_severity"] == "ERROR" and "statement" in entry:
            # What cannot be parsed never gets as far as being logged as a statement.
            if not (executed and found[-1] == entry["statement"]):
                found.append(entry["statement"])
            executed = False
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[LoggingServer]:
    folder = Path(tempfile.mkdtemp(prefix="habitat-log-"))
    postgres.init_cluster(folder / "data", "postgres")
    options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    command = postgres.server_command("postgres", "-D", str(folder / "data"), "-k", str(folder), *options)
    with (folder / "start").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(LoggingServer(folder).answers)
        yield LoggingServer(folder)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)
        shutil.rmtree(folder)


def our_statements(content: bytes) -> list[Statement]:
    """As a migration file is read: no byte order mark, line ends LF."""
    return list(split(content.decode("utf-8-sig").replace("\r\n", "\n")))


def comparable(text: str) -> str:
    """psql drops empty lines inside statements, where they mean nothing; and it keeps CR, which we drop."""
    return re.sub(r"\n+", "\n", text.replace("\r", ""))


def assert_same(ours: list[Statement], sent: list[str]) -> None:
    sent = [text for text in map(comparable, sent) if not NOISE.fullmatch(text)]
    for statement, text in zip(ours, sent, strict=False):
        begins = NOISE.match(text)
        assert begins
        tail = text[begins.end() :]
        own = comparable(statement.text)
        assert tail.startswith(own), f"line {statement.line}: we have {own!r}, psql sent {text!r}"
        assert NOISE.fullmatch(tail[len(own) :]), f"line {statement.line}: psql sent more: {tail[len(own) :]!r}"
    assert len(ours) == len(sent), f"we have {len(ours)} statements, psql sent {len(sent)}"


def test_there_are_enough_nasty_files() -> None:
    assert len(NASTY) >= 45


@pytest.mark.parametrize("file", NASTY, ids=lambda file: file.stem)
def test_statements_equal_psql(server: LoggingServer, file: Path) -> None:
    server.run(file.stem, file)
    assert_same(our_statements(file.read_bytes()), server.sent(file.stem))


@pytest.mark.parametrize("file", NASTY, ids=lambda file: file.stem)
def test_our_statements_make_the_rows_that_psql_makes(server: LoggingServer, file: Path) -> None:
    server.run(f"rows_{file.stem}", file)
    expected = server.rows()
    server.empty()
    with server.connect() as session:
        for statement in our_statements(file.read_bytes()):
            execute(session, statement)
    assert server.rows() == expected


def execute(session: psycopg.Connection, statement: Statement) -> None:
    """Send one statement as it is; that it fails is part of some files."""
    with contextlib.suppress(psycopg.Error):
        if statement.copy_data is None:
            session.pgconn.exec_(statement.text.encode())
        else:
            with session.cursor().copy(statement.text.encode()) as copy:
                copy.write(statement.copy_data)


def test_where_we_follow_the_server_and_not_psql(server: LoggingServer) -> None:
    """psql reads line by line; the server joins both parts to one escape string."""
    (statement, other) = split("SELECT E'a'\n'b\\';c'; SELECT 2")
    with server.connect() as session:
        assert session.execute(statement.text.encode()).fetchone() == ("ab';c",)
        assert other.text == "SELECT 2"
