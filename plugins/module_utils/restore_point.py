# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The restore point: is there time and room for a copy inside the server, and taking it.

It is taken when the writers are gone and before the first migration, so it holds everything they wrote, and putting it
back is a swap of two names.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.checks import Check
from ansible_collections.habitat.runbook.plugins.module_utils.copies import end_sessions, predict_point, take_point
from ansible_collections.habitat.runbook.plugins.module_utils.fence_record import let_in
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, quoted
from ansible_collections.habitat.runbook.plugins.module_utils.properties import apply_properties, read_properties
from ansible_collections.habitat.runbook.plugins.module_utils.table import duration, size

RESTORE, START = "restore", "start"
"""What a run does that fails with something committed: insist on a restore point; start the services on what there is.
With any other word the restore point is put back when there is one."""

_OWNER = "SELECT pg_catalog.pg_get_userbyid(datdba) FROM pg_catalog.pg_database WHERE datname = %s"
_SPARE_BYTES = 256 * 1024 * 1024

ConnectTo = Callable[[str], psycopg.Connection]


@dataclass(frozen=True)
class PointPlan:
    """Whether a restore point is going to be taken; ``reason`` says why not, ``seconds`` is a prediction.

    ``use`` is what the step that applies is told: "none", "wanted" (go on without when it fails) or "required".
    """

    planned: bool
    seconds: float
    bytes: int
    reason: str
    use: str

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


def plan_point(
    server: dict[str, Any], in_the_way: list[Check], on_partial: str, budget: float, free: int | str
) -> PointPlan:
    """Decide beforehand.

    server: facts as checks.read_server returns them; in_the_way: what swap_checks.check_swap says;
    budget: seconds; free: bytes on the server's disk, or why they are not known.
    """
    bytes_needed = server["size"]
    _, seconds = predict_point(bytes_needed)
    reason = ""
    if on_partial == START:
        reason = "habitat_on_partial is start"
    elif seconds > budget:
        reason = f"it would take about {duration(seconds)}, habitat_restore_point_budget is {duration(budget)}"
    elif any(check.state == "fail" for check in in_the_way):
        first = next(check for check in in_the_way if check.state == "fail")
        reason = f"{first.text} ({first.next})"
    elif isinstance(free, str):
        reason = free
    elif free < bytes_needed + _SPARE_BYTES:
        reason = f"{size(free)} are free for a copy of {size(bytes_needed)} and {size(_SPARE_BYTES)} to spare"
    use = "none" if reason else "required" if on_partial == RESTORE else "wanted"
    return PointPlan(not reason, seconds, bytes_needed, reason, use)


def take(connect_to: ConnectTo, database: str, run_id: str, fence: dict[str, Any] | None = None) -> dict[str, Any]:
    """Take the restore point: ``{"name", "seconds", "reason"}``, the name None and a reason when it was not possible.

    fence: the record of the fence around the database, which the copy does not get.
    Nobody of ours is in the database. Idle sessions of others are ended, they lose nothing; a session that is at work
    is left alone, and there is no restore point then.
    """
    started = time.monotonic()
    try:
        with connect_to("postgres") as admin:
            end_sessions(admin, database, states=("idle",))
            name = take_point(admin, database, run_id)
            try:
                row = admin.execute(_OWNER, [database]).fetchone()
                apply_properties(admin, name, read_properties(admin, database), row[0] if row else "")
                if fence:
                    let_in(admin, fence, name)
            except BaseException:
                # Without its settings and grants it is not the database, and must not be taken for it.
                admin.execute(f"DROP DATABASE {quoted(name)}".encode())
                raise
    except (BackupError, psycopg.Error) as error:
        return {"name": None, "seconds": time.monotonic() - started, "reason": " ".join(str(error).split())}
    return {"name": name, "seconds": time.monotonic() - started, "reason": ""}
