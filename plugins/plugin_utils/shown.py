# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Put a screen on the screen."""

from __future__ import annotations

from typing import Any

from ansible.utils.display import Display


def show(text: str, task_vars: dict[str, Any] | None) -> None:
    """Show it; every line begins with the host's name where the play has several."""
    known = task_vars or {}
    if len(known.get("ansible_play_hosts_all", ())) > 1:
        host = known["inventory_hostname"]
        text = "\n".join(f"{host} | {line}" for line in text.splitlines())
    Display().display(text)
