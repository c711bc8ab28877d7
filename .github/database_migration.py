# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The steps of the workflow database-migration.yml: ``prepare``, ``run``, ``status``.

What was typed into the workflow arrives in the environment (``INPUT_TARGET``), is checked, and goes on to Ansible in a
file: no value of it is ever a part of a shell line or of a command's arguments, and none that Ansible would evaluate
as a template passes. Credentials arrive in the environment of ``prepare`` alone and leave it as files for this user
only, in ``$RUNNER_TEMP/habitat``, which the workflow's last steps remove.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "collections"))

from ansible_collections.habitat.runbook.plugins.module_utils.inputs import (  # noqa: E402
    Refused,
    check_inputs,
    plain,
)
from ansible_collections.habitat.runbook.plugins.module_utils.screens import refusal  # noqa: E402

PLAYBOOKS = {"status": "playbooks/status.yml", "up": "migrate.yml", "down": "rollback.yml"}
TAKES = {
    "status": (),
    "up": ("target", "check"),
    "down": ("to", "steps", "backup", "adopt_identity", "reason", "accept_data_loss", "check"),
}
"""Which of the optional inputs belong to a direction."""

_OPTIONAL = ("target", "to", "steps", "backup", "adopt_identity", "reason", "accept_data_loss", "check")
_UNTICKED = (("accept_data_loss", "false"), ("check", "false"))
_PLAIN = re.compile(r"[A-Za-z0-9_./~-]+")
# A reason is a sentence, but has no brace that Ansible would look into.
_SENTENCE = re.compile(r"[\w .,:#/()~+-]+")
_REFUSED = 2  # as ansible-playbook ends when a playbook refuses


def chosen(environment: Mapping[str, str]) -> tuple[str, list[str], dict[str, str]]:
    """The playbook, its flags and its variables; raises Refused for inputs that do not fit together.

    environment: variables such as INPUT_TARGET. GitHub hands an empty text for an input that was left out, and
    "false" for a box that was not ticked.
    """
    direction = environment.get("INPUT_DIRECTION", "")
    if direction not in PLAYBOOKS:
        raise Refused(f'direction is "{plain(direction)}"', f"known: {', '.join(PLAYBOOKS)}", "")
    given = {name: environment.get(f"INPUT_{name.upper()}", "").strip() for name in ("environment", *_OPTIONAL)}
    inputs = {name: value for name, value in given.items() if value and (name, value) not in _UNTICKED}
    for name, value in inputs.items():
        if not (_SENTENCE if name == "reason" else _PLAIN).fullmatch(value):
            more = " blanks , : # ( ) +" if name == "reason" else ""
            raise Refused(f'{name} is "{plain(value)}"', f"expected letters, digits and _ . / -{more} only", "")
        if name in _OPTIONAL and name not in TAKES[direction]:
            takes = f"direction {direction} takes: {', '.join(TAKES[direction]) or 'nothing else'}"
            raise Refused(f"{name} does not belong to direction {direction}", takes, "leave it out")
    flags = ["--check", "--diff"] if inputs.pop("check", "") == "true" else []
    env = inputs.pop("environment", "")
    variables = {"env": env, **inputs}
    if direction != "status":
        # Whoever started the workflow chose the environment by name, and its reviewers have let the job go on.
        variables["confirm"] = env
    return PLAYBOOKS[direction], flags, check_inputs(variables, list(variables))


def credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Contents of the files to write, by name; raises Refused for a key without the hosts it may be shown to."""
    wanted = {"ssh_key": "HABITAT_SSH_KEY", "known_hosts": "HABITAT_KNOWN_HOSTS", "vault": "HABITAT_VAULT_PASSWORD"}
    texts = {file: environment.get(name, "").replace("\r", "").strip() for file, name in wanted.items()}
    if texts["ssh_key"] and not texts["known_hosts"]:
        next = "set it to what ssh-keyscan prints for the host, after comparing the fingerprints"
        raise Refused("the variable HABITAT_KNOWN_HOSTS is empty", "the host's identity could not be checked", next)
    return {file: text + "\n" for file, text in texts.items() if text}


def prepare(folder: Path) -> int:
    """Check the inputs and write what ``run`` needs; nothing is written when they are refused."""
    try:
        playbook, flags, variables = chosen(os.environ)
        files = credentials(os.environ)
    except Refused as refused:
        print(refusal(refused.what, refused.found, refused.next))
        return _REFUSED
    files["command.json"] = json.dumps([playbook, *flags])
    files["variables.json"] = json.dumps(variables)
    folder.mkdir(mode=0o700)
    for name, text in files.items():
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    return 0


def run(folder: Path) -> None:
    """Become the ansible-playbook that was prepared, so that its exit code and its signals are this process's."""
    playbook, *flags = json.loads((folder / "command.json").read_text())
    _become(folder, [playbook, "-e", f"@{folder / 'variables.json'}", *flags])


def status(folder: Path) -> None:
    """Become the playbook that shows where the prepared environment stands."""
    env = json.loads((folder / "variables.json").read_text())["env"]
    _become(folder, [PLAYBOOKS["status"], "-e", f"env={env}"])


def recover(folder: Path) -> None:
    """Become the playbook that puts right what a run left that was cut off."""
    env = json.loads((folder / "variables.json").read_text())["env"]
    _become(folder, ["playbooks/resume.yml", "-e", f"env={env}", "-e", "mode=recover"])


def _become(folder: Path, arguments: list[str]) -> None:
    program = str(REPOSITORY / ".venv" / "bin" / "ansible-playbook")
    environment = {**os.environ, **settings(folder)}
    os.chdir(REPOSITORY)
    os.execve(program, [program, *arguments], environment)  # noqa: S606 - no shell is wanted


def settings(folder: Path) -> dict[str, Any]:
    """Environment of ansible-playbook: where the credentials are, as far as there are any."""
    found = {}
    if (folder / "ssh_key").exists():
        found["ANSIBLE_PRIVATE_KEY_FILE"] = str(folder / "ssh_key")
        found["ANSIBLE_HOST_KEY_CHECKING"] = "true"
        found["ANSIBLE_SSH_COMMON_ARGS"] = f"-o UserKnownHostsFile={folder / 'known_hosts'} -o IdentitiesOnly=yes"
    if (folder / "vault").exists():
        found["ANSIBLE_VAULT_PASSWORD_FILE"] = str(folder / "vault")
    return found


def main() -> int:
    verbs = {"prepare": prepare, "run": run, "recover": recover, "status": status}
    if len(sys.argv) != 2 or sys.argv[1] not in verbs:
        print(f"usage: database_migration.py {'|'.join(verbs)}", file=sys.stderr)
        return _REFUSED
    return verbs[sys.argv[1]](Path(os.environ["RUNNER_TEMP"]) / "habitat") or 0


if __name__ == "__main__":
    sys.exit(main())
