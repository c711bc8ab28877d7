# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Commands that screens name: they can be typed as they stand there. Pure."""

from __future__ import annotations

import shlex

from ansible_collections.habitat.runbook.plugins.module_utils.table import printable

CONFIRMED = "production"
"""The environment in which what changes something has to be confirmed, by its name."""


def command(playbook: str, env: str, **inputs: str) -> str:
    """The command that runs a playbook which changes something, with these inputs behind the environment."""
    confirm = {"confirm": env} if env == CONFIRMED else {}
    given = [f"-e {name}={shlex.quote(printable(text))}" for name, text in {"env": env, **inputs, **confirm}.items()]
    return " ".join(["ansible-playbook", playbook, *given])
