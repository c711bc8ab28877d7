"""The callback that ends a run in good order: what it remembers, what it types, and whom it leaves alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible import context
from ansible_collections.habitat.runbook.plugins.callback import interrupt

RUN_ID = "20261122t100211z-k3f"


def result(action: str, found: dict[str, Any], host: str = "db1") -> SimpleNamespace:
    """What Ansible tells a callback of a task that has ended."""
    task = SimpleNamespace(resolved_action=f"habitat.runbook.{action}")
    return SimpleNamespace(_task=task, _result=found, _host=SimpleNamespace(get_name=lambda: host))


@pytest.fixture
def callback() -> interrupt.CallbackModule:
    made = interrupt.CallbackModule()
    made.v2_runner_on_ok(
        result("environment", {"ansible_facts": {"habitat_run": {"id": RUN_ID, "env": "staging"}}}, "localhost")
    )
    return made


@pytest.fixture
def typed(monkeypatch):
    """The words of cancel.yml for options that were given."""

    def command(**given: Any) -> list[str]:
        monkeypatch.setattr(context, "CLIARGS", given)
        return interrupt.command(RUN_ID)

    return command


@pytest.fixture
def ended(callback, monkeypatch) -> list[int]:
    """Signals for which a run was cancelled."""
    found: list[int] = []
    monkeypatch.setattr(callback, "_cancel", found.append)
    monkeypatch.setattr(callback, "_say", lambda text: None)
    return found


def test_the_run_itself_is_cancelled_with_the_options_that_were_typed(typed):
    words = typed(
        extra_vars=("env=staging", "@vars.yml"), inventory=("inv",), become=True, remote_user="deploy", tags=("x",)
    )
    assert words[1].endswith("/playbooks/cancel.yml")
    assert words[2:] == [
        *("--inventory", "inv", "--extra-vars", "env=staging", "--extra-vars", "@vars.yml"),
        *("--user", "deploy", "--become", "--extra-vars", f"run={RUN_ID}"),
    ]


def test_nothing_typed_is_nothing_repeated(typed):
    empty = {"extra_vars": [], "inventory": None, "become": False, "remote_user": None}
    assert typed(**empty)[2:] == ["--extra-vars", f"run={RUN_ID}"]


def test_the_options_that_are_repeated_are_ansibles_own():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "--help"],
        text=True,
        capture_output=True,
        check=True,
    )
    for option in [*interrupt._REPEATED, *interrupt._ONCE]:
        assert option in done.stdout, option


@pytest.mark.parametrize("number", [signal.SIGINT])
def test_a_run_that_holds_its_lock_is_cancelled_once(callback, ended, number):
    callback.v2_runner_on_ok(result("run_lock", {"held": True}))
    with pytest.raises(KeyboardInterrupt):
        callback._interrupted(number, None)
    assert ended == [number]
    callback._interrupted(number, None)
    assert ended == [number], "the second Ctrl-C does not disturb the first"


@pytest.mark.parametrize(
    "told",
    [
        [],
        [result("run_lock", {"held": False})],
        [result("run_lock", {"held": True}), result("run_lock", {"held": False})],
        [result("run_lock", {"msg": "it cannot connect"})],
        [result("services", {"held": True})],
    ],
)
def test_without_a_lock_nothing_is_cancelled(callback, ended, told):
    for one in told:
        callback.v2_runner_on_failed(one)
    with pytest.raises(KeyboardInterrupt):
        callback._interrupted(signal.SIGINT, None)
    assert ended == []


def test_of_several_hosts_each_has_its_lock(callback, ended):
    for host, held in (("db1", True), ("db2", True), ("db1", False)):
        callback.v2_runner_on_ok(result("run_lock", {"held": held}, host))
    with pytest.raises(KeyboardInterrupt):
        callback._interrupted(signal.SIGINT, None)
    assert ended == [signal.SIGINT]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["true"], ""),
        (["sh", "-c", "exit 2"], "CANCEL    not everything is put right; see: {}\n"),
        (["sh", "-c", "exit 4"], "CANCEL    it could not be ended from here; its guard does it; see: {}\n"),
        (["/nowhere"], "CANCEL    it could not be ended from here; its guard does it; see: {}\n"),
    ],
)
def test_the_last_line_says_what_is_left(callback, monkeypatch, capfd, words, said):
    monkeypatch.setattr(interrupt, "command", lambda run: words)
    callback._cancel(signal.SIGINT)
    assert capfd.readouterr().out == said.format("ansible-playbook playbooks/status.yml -e env=staging")


def test_a_worker_cancels_nothing(callback, ended):
    callback.v2_runner_on_ok(result("run_lock", {"held": True}))
    callback._pid += 1
    with pytest.raises(KeyboardInterrupt):
        callback._interrupted(signal.SIGINT, None)
    assert ended == []


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_nohup_has_switched_off_stays_so(callback, handler):
    before = {number: signal.getsignal(number) for number in interrupt._SIGNALS}
    try:
        signal.signal(signal.SIGHUP, handler)
        callback.v2_playbook_on_start(None)
        ours = signal.getsignal(signal.SIGHUP)
        assert (ours == callback._interrupted) is (handler == signal.SIG_DFL)
        assert signal.getsignal(signal.SIGTERM) == callback._interrupted
    finally:
        for number, former in before.items():
            signal.signal(number, former)
