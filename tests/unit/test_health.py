"""Is the application healthy: scripted answers, then the real module against a real server."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.habitat.runbook.plugins.module_utils.health import Expectation, Probe, judge, wait_healthy
from ansible_collections.habitat.runbook.plugins.modules import health as module
from hypothesis import given
from hypothesis import strategies as st

OK = (200, '{"status": "ok", "schema_version": "07"}')
DEGRADED = (200, '{"status": "degraded", "error": "The database does not answer"}')
DOWN = (503, '{"status": "degraded"}')
REFUSED = (None, "Connection refused")
WANTED = Expectation(200, {"status": "ok"})
ANSWERS = {"O": OK, "D": DEGRADED, "F": DOWN, "X": REFUSED}


def waited(scripts: dict[str, str], successes: int, seconds: int) -> tuple[dict[str, Probe], int]:
    """Play scripts such as ``"FOO"`` (last letter for ever), one round a second; returns the probes and the pauses."""
    asked = dict.fromkeys(scripts, 0)
    pauses = []
    rounds = iter(range(1, 1000))

    def ask(url: str) -> tuple[int | None, str]:
        script = scripts[url]
        asked[url] += 1
        return ANSWERS[script[min(asked[url], len(script)) - 1]]

    probes = wait_healthy(
        list(scripts), WANTED, successes, seconds, ask, lambda: float(next(rounds)), lambda: pauses.append(1)
    )
    return {probe.url: probe for probe in probes}, len(pauses)


@pytest.mark.parametrize(
    ("script", "successes", "good", "tries"),
    [
        ("OOO", 3, 3, 3),
        ("FOOO", 3, 3, 4),
        ("OOFOOO", 3, 3, 6),
        ("OFOFOFOOO", 3, 3, 9),
        ("XXDFO", 3, 3, 7),
        ("O", 1, 1, 1),
        ("OOFOOFOOFOOFOOF", 3, 0, 15),
        ("OX", 3, 0, 15),
        ("F", 1, 0, 15),
        ("FFFFFFFFFFFFFFO", 3, 1, 15),
    ],
)
def test_so_many_good_answers_in_a_row_before_the_deadline(script, successes, good, tries):
    probes, _ = waited({"a": script}, successes, 15)
    assert (probes["a"].good, probes["a"].tries) == (good, tries)


@given(st.text("OOOFDX", min_size=1, max_size=20), st.integers(1, 4), st.integers(1, 25))
def test_healthy_exactly_when_the_row_comes_in_time(script, successes, seconds):
    probes, _ = waited({"a": script}, successes, seconds)
    heard = (script + script[-1] * 30)[:seconds]
    assert (probes["a"].good >= successes) == ("O" * successes in heard)


def test_every_address_has_to_be_healthy():
    probes, _ = waited({"a": "OOO", "b": "FFFFOOO", "c": "X"}, 3, 10)
    assert {url: probe.good for url, probe in probes.items()} == {"a": 3, "b": 3, "c": 0}
    assert {url: probe.tries for url, probe in probes.items()} == {"a": 3, "b": 7, "c": 10}


def test_a_pause_only_after_a_bad_answer():
    assert waited({"a": "OOOOO"}, 5, 10)[1] == 0
    assert waited({"a": "FFOOO"}, 3, 10)[1] == 2


def test_every_address_is_asked_once_even_when_there_is_no_time():
    assert waited({"a": "O", "b": "F"}, 1, 0)[0]["b"].tries == 1


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (200, OK[1], ""),
        (200, '{"status": "ok", "more": 1}', ""),
        (503, DOWN[1], 'status 503 instead of 200: {"status": "degraded"}'),
        (302, "", "status 302 instead of 200"),
        (200, DEGRADED[1], "status is 'degraded' instead of 'ok'"),
        (200, "{}", "status is None instead of 'ok'"),
        (None, "Connection refused", "no answer: Connection refused"),
    ],
)
def test_why_an_answer_is_not_good(status, text, words):
    reason = judge(WANTED, status, text)[0]
    assert reason.startswith(words) if words else reason == ""


@pytest.mark.parametrize("text", ["<html>Sign in</html>", "", '["ok"]', "null", '{"status": '])
def test_an_answer_that_is_no_json_object_is_called_that(text):
    reason, body = judge(WANTED, 200, text)
    assert "JSON" in reason
    assert body == {}
    assert judge(Expectation(), 200, text)[0] == ""


def test_a_page_of_html_becomes_one_short_line():
    page = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n" + "<hr>" * 1000
    reason, _ = judge(WANTED, 502, page)
    assert "502 Bad Gateway" in reason
    assert len(reason) < 300
    assert reason.isprintable()


def test_the_body_is_kept_for_the_report():
    assert judge(WANTED, *OK)[1] == {"status": "ok", "schema_version": "07"}
    assert judge(WANTED, *DOWN)[1] == {"status": "degraded"}


class Server(ThreadingHTTPServer):
    """Gives scripted answers, one after the other, the last one for ever; counts them."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *script: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.asked = script, 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/api/health"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    """One answer: (status, body), or a function that writes what it likes."""

    server: Server

    def do_GET(self) -> None:
        step = self.server.script[min(self.server.asked, len(self.server.script) - 1)]
        self.server.asked += 1
        if callable(step):
            step(self)
            return
        status, body = step
        self.head(status, len(body))
        self.wfile.write(body.encode())

    def head(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Nothing on the screen of the tests."""


@contextmanager
def serving(*script: Any) -> Iterator[Server]:
    with Server(*script) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def slow(handler: Handler) -> None:
    time.sleep(30)


def drip(handler: Handler) -> None:
    handler.head(200, len(OK[1]))
    for character in OK[1]:
        handler.wfile.write(character.encode())
        time.sleep(0.2)


def stall(handler: Handler) -> None:
    handler.head(503, 100)
    time.sleep(30)


@pytest.fixture
def called(capsys):
    """Runs the module in this process as Ansible would; returns what it printed."""

    def call(**arguments: Any) -> dict[str, Any]:
        with patch_module_args(arguments), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out)

    return call


def test_the_module_waits_through_what_a_starting_application_answers(called):
    with serving(DOWN, DEGRADED, (200, "<html>starting</html>"), OK, DOWN, OK) as server:
        result = called(urls=[server.url], body={"status": "ok"}, successes=3, deadline=60, timeout=60)
    (probe,) = result["probes"]
    assert "failed" not in result
    assert result["changed"] is False
    assert (probe["good"], probe["tries"], probe["reason"]) == (3, 8, "")
    assert probe["body"] == {"status": "ok", "schema_version": "07"}
    assert 0 < result["seconds"] < 60
    assert result["finished_at"] == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (DOWN, "status 503 instead of 200"),
        (DEGRADED, "status is 'degraded' instead of 'ok'"),
        (slow, "timed out"),
        ((302, ""), "status 302 instead of 200"),
    ],
)
def test_the_module_says_why_the_deadline_passed(called, script, words):
    patience = 0.2 if script is slow else 30
    with serving(script) as server:
        result = called(urls=[server.url], body={"status": "ok"}, successes=2, deadline=0.2, timeout=patience)
    assert result["failed"] is True
    assert result["msg"].startswith(f"{server.url} is not healthy: ")
    assert words in result["msg"]


def test_nobody_listens(called):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
    result = called(urls=[url], deadline=0)
    assert result["failed"] is True
    assert "Connection refused" in result["msg"]
    assert result["probes"][0]["tries"] == 1


def test_no_address_is_no_health(called):
    assert called(urls=[])["failed"] is True


def test_too_few_good_answers_before_the_deadline(called):
    with serving(OK) as server:
        result = called(urls=[server.url], successes=1000000, deadline=0)
    assert result["msg"].endswith("only 1 good answer in a row")


def test_an_answer_that_drips_in_is_too_late():
    with serving(drip) as server:
        status, _ = module.ask(server.url, 0.3)
    assert status is None


def test_an_error_whose_body_never_comes_is_still_an_answer():
    with serving(stall) as server:
        assert module.ask(server.url, 0.2)[0] in (503, None)
