# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The screen of bootstrap.yml: what was found on the host and in the database, and what was done. Pure."""

from __future__ import annotations

from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.screens import labelled
from ansible_collections.habitat.runbook.plugins.module_utils.table import count, printable

_SHOWN = 12
_DONE = {"created": ("made", "would make"), "altered": ("changed", "would change"), "granted": ("rights", "would set")}
_FOLDERS = {"made": "made", "closed": "closed to others", "rights": "made by root and given to this user"}


def bootstrap(data: dict[str, Any]) -> str:
    """What was there and what was done, or would be.

    data: env, database, host (name), check (bool), found (result of bootstrap_host, or None when there is no Python
    yet), installed (list of packages), venv (path of a Python environment that was made, or empty), roles (result of
    database_roles, or None when it could not be asked).
    """
    lines = [f"Bootstrap   {data['env']} / {data['database']} @ {data['host']}{'   check' if data['check'] else ''}"]
    lines += _host(data)
    lines += _database(data)
    if data["check"]:
        lines.append(labelled("DONE", "nothing was changed"))
    else:
        lines.append(labelled("DONE", f"next: ansible-playbook playbooks/status.yml -e env={data['env']}"))
    return "\n".join(lines)


_BOOT_HOOK = {
    "there": "after a start of the host {unit} puts things right if a run was cut off by it",
    "no_rights": "not installed without the rights for it: add -b (and -K when sudo asks for a password)",
    "no_systemd": "this host has no systemd; have a schedule do it: ansible-playbook playbooks/resume.yml"
    " -e env={env} -e mode=recover",
}


def boot_hook(data: dict[str, Any]) -> str:
    """What becomes of a run that a start of the host cuts off; data: env, unit, state (see _BOOT_HOOK)."""
    return labelled("BOOT", _BOOT_HOOK[data["state"]].format(**data))


def _host(data: dict[str, Any]) -> list[str]:
    found, would = data["found"], "would be " if data["check"] else ""
    lines = []
    if data["venv"]:
        lines.append(labelled("HOST", f"Python environment {data['venv']} {would}made"))
    if found is None:
        return [*lines, "  what it would find and do next is known when that is there"]
    programs = "".join(f", {name} {path}" for name, path in found["programs"].items() if path)
    psycopg = f"psycopg {found['psycopg']}" if found["psycopg"] else "no psycopg"
    lines.append(labelled("HOST", f"user {found['user']}, {found['python']} with {psycopg}{programs}"))
    if found["missing"] and data["check"]:
        lines.append(f"  missing: {', '.join(found['missing'])}")
    if data["installed"]:
        lines.append(f"  {would}installed: {', '.join(data['installed'])}")
    for path, state in found["folders"].items():
        if state in _FOLDERS:
            lines.append(f"  folder {path} {would}{_FOLDERS[state]}")
    return lines


def _database(data: dict[str, Any]) -> list[str]:
    roles = data["roles"]
    if roles is None:
        return [labelled("DATABASE", "not asked: psycopg would be installed first")]
    changes = sum(len(roles[kind]) for kind in _DONE)
    if changes:
        lines = [labelled("DATABASE", f"{count(changes, 'change')}{' to make' if data['check'] else ''}")]
    else:
        lines = [labelled("DATABASE", "roles, ownership and rights are as they should be")]
    for kind, words in _DONE.items():
        for text in _shortened(roles[kind]):
            lines.append(f"  {words[data['check']]:<14}{printable(text)}")
    return lines + [f"  warn  {printable(note)}" for note in roles["notes"]]


def _shortened(texts: list[str]) -> list[str]:
    if len(texts) <= _SHOWN:
        return texts
    return [*texts[: _SHOWN - 1], f"and {len(texts) - _SHOWN + 1} more (--diff shows the statements)"]
