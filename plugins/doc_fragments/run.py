# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations


class ModuleDocFragment:
    """Options that the modules of a run share."""

    DOCUMENTATION = r"""
options:
  login_db:
    description: Name of the database that is migrated.
    type: str
    required: true
  env:
    description: Name of the environment; it appears in the commands that messages suggest.
    type: str
    required: true
  run_id:
    description:
      - Id of the run, such as V(20261122t100211z-k3f).
      - Every session of the run has the application_name C(runbook/<run id>).
    type: str
    required: true
requirements:
  - psycopg >= 3.1
author:
  - The Habitat team (@habitat)
attributes:
  diff_mode:
    description: Will return details on what has changed, or would change in check mode, when in diff mode.
  platform:
    description: Target systems the module runs on.
    platforms: posix
    support: full
"""
