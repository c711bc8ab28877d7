# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: interrupt
type: aggregate
short_description: End a run in good order when its playbook gets a signal
version_added: 0.1.0
description:
  - Ansible runs neither C(rescue) nor C(always) when it gets SIGINT (Ctrl-C), SIGTERM or SIGHUP (a closed terminal).
  - While a run holds its lock, this callback answers these signals with playbook C(cancel.yml) for that run, with the
    options of the command that was typed, and lets Ansible end when it is done.
  - Whatever is not reached in this way, such as a SIGKILL, is left to the run's guard on the database's host.
  - Enable it by C(callbacks_enabled) in C(ansible.cfg).
requirements:
  - enabled in configuration
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOCK = "habitat.runbook.run_lock"
_ENVIRONMENT = "habitat.runbook.environment"
_CANCEL = Path(__file__).parents[2] / "playbooks" / "cancel.yml"
_SECONDS = 180
_REFUSED = 2
_LEFT_TO_GUARD = "it could not be ended from here; its guard does it"
_REPEATED = {
    "--inventory": "inventory",
    "--extra-vars": "extra_vars",
    "--vault-id": "vault_ids",
    "--vault-password-file": "vault_password_files",
}
_ONCE = {
    "--user": "remote_user",
    "--private-key": "private_key_file",
    "--connection": "connection",
    "--ssh-common-args": "ssh_common_args",
    "--ssh-extra-args": "ssh_extra_args",
    "--become-method": "become_method",
    "--become-user": "become_user",
    "--become-password-file": "become_password_file",
    "--connection-password-file": "connection_password_file",
}


class CallbackModule(CallbackBase):
    """Knows which run holds its lock on which hosts."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "habitat.runbook.interrupt"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()
        self._run = self._env = ""
        self._held: set[str] = set()
        self._ending = False

    def v2_playbook_on_start(self, playbook: Any) -> None:
        for number in _SIGNALS:
            # What nohup or a shell has switched off stays so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._interrupted)

    def v2_runner_on_ok(self, result: Any) -> None:
        self._follow(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._follow(result)

    def _follow(self, result: Any) -> None:
        action = result._task.resolved_action
        if action == _ENVIRONMENT:
            run = result._result.get("ansible_facts", {}).get("habitat_run", {})
            self._run, self._env = run.get("id", ""), run.get("env", "")
        elif action == _LOCK and "held" in result._result:
            act = self._held.add if result._result["held"] else self._held.discard
            act(result._host.get_name())

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        # Workers are forks and have this handler, too.
        if os.getpid() == self._pid and self._held and not self._ending:
            self._ending = True
            name = signal.Signals(number).name
            self._say(f"\nCANCEL    {name}: ending run {self._run} and starting what it has stopped ...\n")
            self._cancel(number)
        elif self._ending and os.getpid() == self._pid:
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _cancel(self, number: int) -> None:
        # With a terminal that is gone nobody reads, and writing would fail. Ansible keeps its streams from children.
        out, errors = (subprocess.DEVNULL,) * 2 if number == signal.SIGHUP else (1, 2)
        words, look = command(self._run), f"ansible-playbook playbooks/status.yml -e env={self._env}"
        try:
            # In a session of its own: the next Ctrl-C is not for it.
            subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                start_new_session=True,
                timeout=_SECONDS,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            # With 2 it has said itself what it could not do.
            why = "not everything is put right" if error.returncode == _REFUSED else _LEFT_TO_GUARD
            self._say(f"CANCEL    {why}; see: {look}\n")
        except (OSError, subprocess.SubprocessError):
            self._say(f"CANCEL    {_LEFT_TO_GUARD}; see: {look}\n")

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(1, text.encode())


def command(run_id: str) -> list[str]:
    """The command that ends this run, with the options that were given to this process."""
    given = context.CLIARGS
    words = [sys.argv[0], str(_CANCEL)]
    for option, name in _REPEATED.items():
        for value in given.get(name) or ():
            words += [option, str(value)]
    for option, name in _ONCE.items():
        if given.get(name):
            words += [option, str(given[name])]
    if given.get("become"):
        words.append("--become")
    return [*words, "--extra-vars", f"run={run_id}"]
