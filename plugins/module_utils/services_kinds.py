# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which manager of services the options mean."""

from __future__ import annotations

from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.services import Manager

OPTIONS = ("manager", "server_url", "folder", "file", "scope")
"""The options of module services that say which manager it is."""


def manager_of(options: dict[str, Any]) -> Manager:
    """The manager that the options name; only its own code is loaded, since that takes time in the window."""
    if options["manager"] == "compose":
        from ansible_collections.habitat.runbook.plugins.module_utils.services_compose import ComposeServices

        return ComposeServices(options["folder"], options["file"])
    if options["manager"] == "systemd":
        from ansible_collections.habitat.runbook.plugins.module_utils.services_systemd import SystemdServices

        return SystemdServices(options["scope"])
    from ansible_collections.habitat.runbook.plugins.module_utils.services_supervisor import SupervisorServices

    return SupervisorServices(options["server_url"])
