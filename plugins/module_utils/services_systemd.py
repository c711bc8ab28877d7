# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Services that are units of systemd, of the system or of the user who is logged in."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess

from ansible_collections.habitat.runbook.plugins.module_utils.services import AGAIN, DOWN, PATIENCE, UP, ServiceError

_SECONDS = 30.0
_PROPERTIES = "Id,LoadState,ActiveState,SubState"
_NO_RIGHTS = ("authentication required", "access denied", "permission denied")
_NO_BUS = ("failed to connect to bus", "not been booted with systemd")
_NO_ENTRIES = "-- No entries --"
_STANDING = ("inactive", "failed", "maintenance")


class SystemdServices:
    """Units (``habitat-api``, ``habitat-api.service``) of systemd; scope is ``system`` or ``user``."""

    logs_kept = 1

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._user = ["--user"] if scope == "user" else []

    def states(self, names: list[str]) -> dict[str, str]:
        """See services.Manager; the full names are systemd's own, with their ending."""
        for name in names:
            # systemctl looks for a pattern among the loaded units only, so one that stands still could be missed.
            if set(name) & set("*?["):
                raise ServiceError(f"{name} is a pattern: write the units one by one into habitat_services")
        done = self._systemctl(_SECONDS, "show", f"--property={_PROPERTIES}", "--", *names)
        found = units(done.stdout)
        if done.returncode or len(found) != len(names):
            raise ServiceError(self._explained("read", done.stderr))
        for name, unit in zip(names, found):
            if unit["LoadState"] == "not-found":
                raise ServiceError(
                    f"systemd has no unit {unit['Id']} ({self._scope} scope): correct {name} in habitat_services,"
                    f" the units that there are shows: {' '.join(['systemctl', *self._user])} list-unit-files"
                )
        return {unit["Id"]: condition(unit["ActiveState"], unit["SubState"]) for unit in found}

    def stop(self, names: list[str]) -> str:
        """See services.Manager: all at the same time."""
        return self._ordered("stop", names)

    def start(self, names: list[str]) -> str:
        """See services.Manager: all at the same time."""
        return self._ordered("start", names)

    def _ordered(self, verb: str, names: list[str]) -> str:
        done = self._systemctl(PATIENCE, "--no-ask-password", verb, "--", *names)
        if done.returncode and _says(done.stderr, _NO_RIGHTS + _NO_BUS):
            raise ServiceError(self._explained(verb, done.stderr))
        return done.stderr if done.returncode else ""

    def log(self, name: str, lines: int, own: bool = False, since: float | None = None) -> str:
        """See services.Manager; systemd itself writes into it that a unit started, failed and so on."""
        # The fields are on what the unit's own processes wrote (systemd.journal-fields(7)).
        field, option = ("_SYSTEMD_USER_UNIT", "--user-unit") if self._user else ("_SYSTEMD_UNIT", "--unit")
        arguments = ["--no-pager", "--output=cat", f"--lines={lines}"]
        if since is not None:
            arguments.append(f"--since=@{int(since)}")
        try:
            done = _run("journalctl", [*arguments, f"{field if own else option}={name}"], _SECONDS)
            if not done.stdout.startswith(_NO_ENTRIES) and not done.returncode and done.stdout:
                return done.stdout
            # Who may see a part of the journal only gets nothing, and a hint only when nothing is looked for.
            hint = done.stderr or _run("journalctl", ["--no-pager", "--lines=0"], _SECONDS).stderr
        except ServiceError as error:
            return f"(not to be read: {error})"
        if hint and not self._user:
            return f"(not to be read by {_who()}, who may if in the group systemd-journal: {_first(hint)})"
        return ""

    def command_for_log(self, name: str) -> str:
        """See services.Manager."""
        return " ".join(["journalctl", *self._user, "-u", name])

    def command_to_start(self, names: list[str]) -> str:
        """See services.Manager."""
        return " ".join(["systemctl", *self._user, "start", *names])

    def _systemctl(self, seconds: float, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _run("systemctl", [*self._user, *arguments], seconds)

    def _explained(self, verb: str, messages: str) -> str:
        message = _first(messages)
        if _says(messages, _NO_RIGHTS):
            return (
                f"user {_who()} may not {verb} units on this host ({message}); set ansible_become for it, with a rule"
                " in sudoers, or allow org.freedesktop.systemd1.manage-units by a rule of polkit"
            )
        if _says(messages, _NO_BUS) and self._scope == "user":
            return (
                f"the systemd of user {_who()} does not answer ({message}); let it run without a login:"
                f" loginctl enable-linger {_who()}"
            )
        if _says(messages, _NO_BUS):
            return f"systemd does not answer on this host ({message}); correct habitat_service_manager"
        return f"systemctl cannot {verb} the units: {message}; correct habitat_services"


def units(printed: str) -> list[dict[str, str]]:
    """The properties of each unit, in the order they were asked for, from what ``systemctl show`` prints."""
    blocks = [block for block in printed.split("\n\n") if block.strip()]
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]


def condition(active: str, sub: str) -> str:
    """UP, AGAIN or DOWN for the properties ActiveState and SubState (systemd.service(5), Restart=)."""
    if active == "activating" and sub.startswith("auto-restart"):
        return AGAIN
    return DOWN if active in _STANDING else UP


def _run(name: str, arguments: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    program = shutil.which(name)
    if program is None:
        raise ServiceError(f"there is no {name} on this host's PATH; correct habitat_service_manager")
    # The manager of a user is found by a variable that a login sets, and sudo and cron do not.
    environment = {"XDG_RUNTIME_DIR": f"/run/user/{os.geteuid()}", **os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            [program, *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise ServiceError(f"{name} has not ended after {seconds:.0f} s; see: systemctl list-jobs") from None


def _says(messages: str, words: tuple[str, ...]) -> bool:
    return any(word in messages.lower() for word in words)


def _first(messages: str) -> str:
    lines = messages.strip().splitlines() or ["it gave no reason"]
    return lines[0].rstrip(".")


def _who() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
