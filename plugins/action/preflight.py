# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Controller side of habitat.runbook.preflight: reads and parses schema/."""

from __future__ import annotations

from ansible_collections.habitat.runbook.plugins.action.schema_migrations_info import ActionModule as StagingAction


class ActionModule(StagingAction):
    """The same staging; the module keeps the plan for the run."""
