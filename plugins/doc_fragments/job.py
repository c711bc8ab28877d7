# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations


class ModuleDocFragment:
    """Options of the modules whose work may be a job of its own on the host."""

    DOCUMENTATION = r"""
options:
  run_dir:
    description:
      - Folder of the run on the host.
      - When it is given, the module works only while this run holds the run lock, and shows it that it is at work.
    type: path
  wait:
    description:
      - Seconds after which the module answers that it is still working, while it works on as a job of its own on the
        host; M(habitat.runbook.job) then waits for its end. The action plugin sets this and waits.
      - Left out, and without O(run_dir), the module does its work before it answers.
    type: float
"""
