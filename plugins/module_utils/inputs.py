# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What an operator may type behind ``-e``, checked before anything else happens. Pure."""

from __future__ import annotations

import difflib
import re
import secrets
import string
import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.command_line import CONFIRMED
from ansible_collections.habitat.runbook.plugins.module_utils.table import printable

RUN_ID = re.compile(r"[0-9]{8}t[0-9]{6}z-[a-z0-9]{3}")
"""Form of a run id: UTC time of its start and three random characters, as in 20261122t100211z-k3f."""

_STEPS = re.compile(r"[1-9][0-9]{0,2}")
_VERSION = re.compile(r"v?([0-9]{1,20})")
# Variables of Ansible itself, of AWX, and of inventories that an operator overrides for one run on purpose.
_FOREIGN = re.compile(r"(ansible|awx|tower|habitat)_\w+")
_KEPT = re.compile(rf"[^\x00-\x1f\x7f]+_before_{RUN_ID.pattern}")
_LONGEST_NAME = 63  # bytes: PostgreSQL's NAMEDATALEN - 1
_RUN_ID_SHOWN = "20261122t100211z-k3f"
_SWITCHES = ("accept_data_loss", "import")
_SHOWN = 60
_REASON = range(3, 201)  # characters
_KNOWN_MANAGERS = ("compose", "systemd", "supervisor")


class Refused(Exception):
    """An input that must not be acted on: what is wrong, what was found, what to type next."""

    def __init__(self, what: str, found: str, next: str) -> None:
        super().__init__(what)
        self.what, self.found, self.next = what, found, next

    def as_data(self) -> dict[str, str]:
        return {"what": self.what, "found": self.found, "next": self.next}


def new_run_id(now: float | None = None) -> str:
    """A new run id; now: seconds since the epoch, for tests."""
    stamp = time.strftime("%Y%m%dt%H%M%Sz", time.gmtime(now))
    alphabet = string.ascii_lowercase + string.digits
    return f"{stamp}-{''.join(secrets.choice(alphabet) for _ in range(3))}"


def check_inputs(given: Mapping[str, Any], known: list[str]) -> dict[str, str]:
    """The inputs given by -e as text; raises Refused for one this playbook does not take or of a wrong form."""
    inputs = {}
    # Typed by a person an empty value is rather a shell variable that was not set.
    survey = any(name.startswith(("awx_", "tower_")) for name in given)
    for name, value in given.items():
        if survey and _left_alone(name, value):
            continue
        if name in known:
            inputs[name] = _text(name, value)
        elif not _FOREIGN.fullmatch(name):
            near = difflib.get_close_matches(name, known, 1)
            guess = f"did you mean {near[0]}?" if near else ""
            raise Refused(f'unknown variable "{plain(name)}"', f"this playbook takes: {', '.join(known)}", guess)
    ways = [name for name in ("backup", "to", "steps") if name in inputs]
    if len(ways) > 1:
        found = "a rollback goes to a backup, to a version, or a number of steps back"
        given_twice = " and ".join(ways) + " are both given" if len(ways) == 2 else f"{', '.join(ways)} are all given"
        raise Refused(given_twice, found, "give one of them")
    _check_steps(inputs)
    for name in ("target", "to"):
        if name in inputs:
            version = _VERSION.fullmatch(inputs[name])
            if not version:
                raise Refused(f'{name} is "{plain(inputs[name])}"', "a version is its digits, such as 07", "")
            inputs[name] = version[1]
    _check_words(inputs)
    _check_adoption(inputs)
    return inputs


def _check_words(inputs: Mapping[str, str]) -> None:
    if inputs.get("mode", "recover") != "recover":
        raise Refused(f'mode is "{plain(inputs["mode"])}"', "known: recover", "leave it out to finish what was begun")
    if inputs.get("run") and not RUN_ID.fullmatch(inputs["run"]):
        raise Refused(f'run is "{plain(inputs["run"])}"', "a run's id is as in 20261122t100211z-k3f", "")
    if inputs.get("output", "table") not in ("table", "json"):
        raise Refused(f'output is "{plain(inputs["output"])}"', "known: table, json", "")
    _check_salvage(inputs)


def _check_salvage(inputs: Mapping[str, str]) -> None:
    kept = inputs.get("kept")
    if kept is not None and not (_KEPT.fullmatch(kept) and len(kept.encode()) <= _LONGEST_NAME):
        found = f"a kept database's name is as in habitat_before_{_RUN_ID_SHOWN}"
        raise Refused(f'kept is "{plain(kept)}"', found, "status.yml names those there are")
    if inputs.get("import", "true") not in ("true", "false"):
        raise Refused(f'import is "{plain(inputs["import"])}"', "known: true, false", "without it the file is written")


def _check_adoption(inputs: Mapping[str, str]) -> None:
    """A backup of another environment is adopted by saying so and saying why."""
    both = ("adopt_identity", "reason")
    given = [name for name in both if name in inputs]
    if not given:
        return
    if "backup" not in inputs:
        raise Refused(f"{given[0]} is given without a backup", "it is a backup that is adopted", "add -e backup=ID")
    if len(given) < len(both):
        missing = '-e reason="..."' if given == ["adopt_identity"] else "-e adopt_identity=ENVIRONMENT"
        raise Refused(f"{given[0]} is given alone", "a backup is adopted with a reason", f"add {missing}")
    reason = inputs["reason"]
    if len(reason) not in _REASON or not reason.isprintable():
        found = f"expected {_REASON[0]} to {_REASON[-1]} printable characters"
        raise Refused(f'reason is "{plain(reason)}"', found, "say why, in one line")


def _left_alone(name: str, value: Any) -> bool:
    """Whether it is what a survey of AWX sends for a question that was left alone."""
    # AWX sends an empty text marked as unsafe, of which ansible-core 2.19 makes None.
    return value is None or value == "" or (name in _SWITCHES and value in (False, "false"))


def _check_steps(inputs: Mapping[str, str]) -> None:
    if "steps" in inputs and not _STEPS.fullmatch(inputs["steps"]):
        raise Refused(f'steps is "{plain(inputs["steps"])}"', "expected a number from 1 to 999", "")
    if inputs.get("accept_data_loss", "true") not in ("true", "false"):
        raise Refused(f'accept_data_loss is "{plain(inputs["accept_data_loss"])}"', "known: true, false", "")


def check_required(inputs: Mapping[str, str], known: list[str], required: list[str]) -> None:
    """Raise Refused when one of the required inputs was not given."""
    for name in required:
        if name not in inputs:
            raise Refused(f"{name} is not given", f"this playbook takes: {', '.join(known)}", f"add -e {name}=...")


def _text(name: str, value: Any) -> str:
    # A survey of AWX sends these two as what they are.
    if name in _SWITCHES and isinstance(value, bool):
        return str(value).lower()
    if name == "steps" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        # YAML reads 012 as ten and drops the zeros of 007, so a number may already be another version.
        found = "its digits may not be those that were typed"
        raise Refused(f"{name} is the number {value}", found, f"write it in quotes, or as v{value}")
    if not isinstance(value, str):
        raise Refused(f"{name} is {plain(repr(value))}", "expected a word", "")
    return value.strip()


def check_environment(
    inputs: Mapping[str, str],
    groups: Mapping[str, list[str]],
    hostvars: Mapping[str, Mapping[str, Any]],
    limit: str | None,
    confirmed: bool,
) -> str:
    """The environment's name; raises Refused unless it is exactly one known group with hosts that can be run.

    confirmed: whether this playbook changes something, so that production has to be confirmed by value.
    """
    known = ", ".join(sorted(groups))
    if "env" not in inputs:
        raise Refused("no environment given", f"known: {known}", "add -e env=NAME")
    env = inputs["env"]
    if env not in groups:
        near = difflib.get_close_matches(env, list(groups), 1)
        guess = f"did you mean {near[0]}?" if near else ""
        raise Refused(f'env is "{plain(env)}"', f"known: {known}", guess)
    if inputs.get("adopt_identity", env) != env:
        found = f"env is {plain(env)}"
        raise Refused(f'adopt_identity is "{plain(inputs["adopt_identity"])}"', found, "-e env= names it, too")
    if limit is not None:
        raise Refused(f'--limit "{plain(limit)}" hides hosts from the runbook', "env names the hosts", "leave it out")
    if not groups[env]:
        raise Refused(f"environment {env} has no host", f"inventories/{env}.yml names none", "add the host")
    if confirmed and env == CONFIRMED and inputs.get("confirm") != env:
        found = f'confirm is "{plain(inputs["confirm"])}"' if "confirm" in inputs else "confirm is not given"
        raise Refused(f"{env} needs to be confirmed", found, f"add -e confirm={env}")
    for host in groups[env]:
        _check_host(env, host, hostvars[host])
    return env


def _check_host(env: str, host: str, variables: Mapping[str, Any]) -> None:
    manager = variables.get("habitat_service_manager")
    if manager not in _KNOWN_MANAGERS:
        raise Refused(
            f"{env} cannot be run",
            f"habitat_service_manager of {host} is {plain(manager) if manager else 'not set'}",
            f"known: {', '.join(_KNOWN_MANAGERS)}",
        )
    if variables.get("habitat_not_ready"):
        raise Refused(f"{env} is not ready", variables["habitat_not_ready"], "")


def plain(text: object) -> str:
    """Text from outside for one line of a screen: no control characters, and not long."""
    shown = printable(str(text))
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
