"""Every way a run that goes back can end, by a backup, by a restore point, by down migrations; see test_verdict.py."""

from __future__ import annotations

import re

import pytest

from tests.unit.rollbacks import (
    FAILED_DOWN,
    FAILED_MIGRATION,
    KEPT,
    NO_SERVICE,
    OLD_BACKUP,
    PLANNED,
    POINT,
    PRODUCTION,
    PUT_BACK,
    ROLLBACKS,
    SWAPPED,
    command,
    down_failed,
    down_run,
    not_restored,
    of_a_copy,
    point_run,
    restore,
    swap_failed,
)
from tests.unit.samples import CHECKS, PENDING, SKIPPED, failure
from tests.unit.test_verdict import (
    AGAIN,
    BACK,
    NO_BACKUP,
    STATUS,
    UNHEALTHY,
    UNKNOWN,
    End,
    check_report,
    check_verdict,
    judged,
    sentences,
)

AGAIN_BACK = f"ansible-playbook rollback.yml -e env=staging -e backup={OLD_BACKUP}"
UNDO = f"ansible-playbook rollback.yml -e env=staging -e backup={KEPT}"
IS_KEPT = f"kept as {KEPT}"
ENDS = {
    "a backup was put back": End(ROLLBACKS["restored"], "succeeded", "07 -> 05", ("up and healthy",)),
    "a copy was put back": End(ROLLBACKS["restored_copy"], "succeeded", "05", ("up and healthy",)),
    "a backup was put back and no service had been running": End(
        restore(**NO_SERVICE), "succeeded", "07 -> 05", ("No service was running before",)
    ),
    "what was put back is not healthy": End(
        ROLLBACKS["restored_unhealthy"],
        "needs_operator",
        "07 -> 05",
        (f"replaced by what is in {OLD_BACKUP}", IS_KEPT, "The schema is at 05.", "started but NOT healthy"),
        UNDO,
    ),
    "what was put back is not healthy in production": End(
        ROLLBACKS["restored_unhealthy_production"],
        "needs_operator",
        "07 -> 05",
        ("NOT healthy",),
        f"ansible-playbook rollback.yml -e env=production -e backup={KEPT} -e confirm=production",
    ),
    "the swap failed": End(
        ROLLBACKS["swap_failed"],
        "stopped_safe",
        "07",
        ("The database was not replaced, it is as it was.", "The schema is at 07.", "up and healthy"),
        f"then: {AGAIN_BACK}",
    ),
    "nobody knows what became of the swap": End(
        ROLLBACKS["swap_unknown"],
        "needs_operator",
        "not known",
        ("Whether the database was replaced is not known", f"if status.yml lists a copy {KEPT}"),
        STATUS,
    ),
    "the restore failed": End(
        ROLLBACKS["restore_failed"],
        "stopped_safe",
        "07",
        ("The services were not touched, the schema is at 07.",),
        f"then: {AGAIN_BACK}; or see what else there is: ansible-playbook rollback.yml -e env=staging",
    ),
    "the backup cannot be used": End(
        ROLLBACKS["choice_refused"], "refused", "07", ("The services were not touched",), f"then: {AGAIN_BACK}"
    ),
    "a migration failed and the restore point was put back": End(
        ROLLBACKS["put_back"],
        "rolled_back",
        "05",
        ("07 failed.", "put back to schema 05", IS_KEPT, "up and healthy"),
        f"correct schema/07_email_verifications.sql, then: {AGAIN}",
    ),
    "a partial migration was put back": End(
        ROLLBACKS["put_back_partial"],
        "rolled_back",
        "05",
        ("07 failed.", "put back to schema 05", IS_KEPT),
        f"correct schema/07_email_verifications.sql, then: {AGAIN}",
    ),
    "a migration failed on an empty database and the restore point was put back": End(
        point_run(
            failure(version="02", file="schema/02_people.sql"),
            {**PUT_BACK, "to_version": None},
            preflight={"current": None, "checks": CHECKS, "pending": PENDING},
            applying={**ROLLBACKS["put_back"]["applying"], "from_version": None, "to_version": "01"},
        ),
        "rolled_back",
        "empty",
        ("put back to the empty schema",),
        AGAIN,
    ),
    "a deadlock was put back": End(
        point_run(failure(sqlstate="40P01", message="deadlock detected"), PUT_BACK),
        "rolled_back",
        "05",
        ("put back to schema 05",),
        f"then: {AGAIN}",
    ),
    "health failed and the restore point was put back": End(
        ROLLBACKS["put_back_after_health"],
        "rolled_back",
        "05",
        ("put back to schema 05", f"{IS_KEPT}, with 3 rows written meanwhile", "up and healthy"),
        f"put right what failed, then: {AGAIN}",
    ),
    "the restore point was put back and no service had been running": End(
        point_run(FAILED_MIGRATION, PUT_BACK, **NO_SERVICE),
        "rolled_back",
        "05",
        ("put back to schema 05", "No service was running before"),
        AGAIN,
    ),
    "the restore point was put back and the services stay down": End(
        ROLLBACKS["put_back_but_down"], "needs_operator", "05", ("put back to schema 05", "DOWN"), STATUS
    ),
    "the restore point could not be put back": End(
        ROLLBACKS["not_put_back"],
        "needs_operator",
        "05 -> 06",
        ("the schema is at 06", f"{POINT} could NOT be put back: database habitat is still in use", "up and healthy"),
        f"to go back: ansible-playbook rollback.yml -e env=production -e backup={POINT} -e confirm=production",
    ),
    "nobody knows whether the restore point was put back": End(
        ROLLBACKS["put_back_unknown"],
        "needs_operator",
        "not known",
        (f"Whether the restore point {POINT} was put back is not known", f"if status.yml lists a copy {KEPT}"),
        STATUS,
    ),
    "migrations were taken back": End(ROLLBACKS["reverted"], "succeeded", "07 -> 05", ("up and healthy",)),
    "one of two down migrations failed": End(
        ROLLBACKS["revert_failed"],
        "stopped_safe",
        "07 -> 06",
        ("The down of 06 failed and was rolled back by PostgreSQL; the schema is at 06.", "up and healthy"),
        f"undo what was taken back: {BACK}",
    ),
    "the first down migration failed": End(
        down_failed(failure(version="07"), [], "07"),
        "stopped_safe",
        "07",
        ("The down of 07 failed and was rolled back by PostgreSQL; the schema is at 07.",),
        "ansible-playbook rollback.yml -e env=staging -e backup=latest",
    ),
    "a down migration met a lock": End(
        down_failed(failure(version="07", sqlstate="55P03"), [], "07"),
        "stopped_safe",
        "07",
        ("The down of 07 failed and was rolled back",),
        "then: ansible-playbook rollback.yml -e env=staging -e to=05 -e accept_data_loss=true",
    ),
    "the connection was lost during the COMMIT of a down": End(
        down_failed(UNKNOWN, [], "07"),
        "needs_operator",
        "07",
        ("Whether the down of 07 was committed is not known",),
        STATUS,
    ),
    "rows would go with a down migration": End(
        ROLLBACKS["revert_refused"],
        "refused",
        "07",
        ("The services were not touched, the schema is at 07.",),
        "if these rows may go: ansible-playbook rollback.yml -e env=staging -e to=05 -e accept_data_loss=true",
    ),
    "health failed after migrations were taken back": End(
        down_run(failed_task="Wait", failed_message="x", health=UNHEALTHY, healthy={}),
        "needs_operator",
        "07 -> 05",
        ("The schema is at 05.", "NOT healthy"),
        f"to go back (restoring took 24 s when it was tried): {BACK}",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_every_way_a_run_can_end(name):
    check_verdict(ENDS[name])


@pytest.mark.parametrize("name", ENDS)
def test_every_end_becomes_a_report_that_is_plain_json(name):
    check_report(ENDS[name])


def test_the_sentences_read_well(golden):
    golden("verdicts_rollback", sentences(ENDS))


def test_a_swap_that_was_killed_says_nothing_about_what_it_did():
    killed = {"failed": True, "msg": "MODULE FAILURE: No start of json char found"}
    verdict = judged(not_restored("Swap the copy in", killed["msg"], swapping=killed))
    assert (verdict.outcome, verdict.schema) == ("needs_operator", "not known")
    assert "the schema is at" not in verdict.state.lower()
    assert verdict.next.endswith(STATUS)


def test_nothing_is_claimed_of_a_schema_after_the_downs_died():
    crashed = {"failed": True, "msg": "MODULE FAILURE: No start of json char found"}
    verdict = judged(down_run(failed_task="Run the down migrations", failed_message="x", reverting=crashed))
    assert (verdict.outcome, verdict.schema) == ("needs_operator", "not known")
    assert "the schema is at" not in verdict.state.lower()
    assert verdict.next.endswith(STATUS)


def test_a_restore_point_that_was_left_out_is_not_missed():
    # include_role was not run: there is no result at all, or that of a task that was skipped.
    for swapping in ({}, SKIPPED):
        verdict = judged(point_run(FAILED_MIGRATION, swapping))
        assert (verdict.outcome, verdict.schema) == ("stopped_safe", "05 -> 06")


def test_in_check_mode_nothing_is_swapped():
    predicted = {"changed": True, "kept_as": KEPT}
    verdict = judged(
        restore(run=command(backup=OLD_BACKUP) | {"check": True}, swapping=predicted, restoring={"changed": True})
    )
    assert (verdict.outcome, verdict.schema, "kept as" in verdict.state) == ("succeeded", "07", False)


def test_the_command_takes_back_no_more_than_was_asked_for():
    # One of two is gone: the same command would take back one that nobody named.
    assert "-e steps=1 " in judged(ROLLBACKS["revert_failed"]).next
    assert "-e steps=2 " in judged(down_failed(FAILED_DOWN, [], "07", run=command(steps="2", confirm="x"))).next


@pytest.mark.parametrize(
    "given",
    [
        restore(failed_task="Count what stays in the kept database", failed_message="x"),
        down_run(failed_task="Say what was taken back", failed_message="x", run=command(steps="2")),
    ],
    ids=["backup", "down"],
)
def test_what_is_done_is_not_to_be_done_again(given):
    verdict = judged(given)
    assert (verdict.outcome, verdict.schema) == ("stopped_safe", "07 -> 05")
    assert verdict.next.endswith(STATUS)


def test_a_put_back_database_is_not_put_back_once_more():
    given = point_run(failure(state="partial", done=2, total=5), PUT_BACK, health=UNHEALTHY, healthy={})
    assert judged(given).next.endswith(STATUS)


def test_losing_the_lock_is_not_a_refusal_to_lose_rows():
    held = down_run(
        failed_task="Refuse while another run holds the lock",
        failed_message="another run holds staging/habitat",
        planning={**PLANNED, "msg": "12 rows would be dropped or changed", "accepted": False, "to_version": "07"},
        reverting={},
        **NO_BACKUP,
    )
    assert judged(held).next.endswith(
        "then: ansible-playbook rollback.yml -e env=staging -e to=05 -e accept_data_loss=true"
    )
    assert "these rows" not in judged(held).next


@pytest.mark.parametrize("name", ROLLBACKS)
def test_every_command_for_production_carries_the_confirmation(name):
    given = ROLLBACKS[name]
    typed = {**given["run"]["inputs"], **PRODUCTION}
    verdict = judged({**given, "run": {**given["run"], "env": "production", "inputs": typed}})
    commands = re.findall(r"ansible-playbook [^;]*", verdict.next)
    assert len(commands) >= (verdict.outcome != "succeeded")
    changing = [line for line in commands if "status.yml" not in line]
    assert [line for line in changing if "-e confirm=production" not in line] == []


def test_a_name_that_a_shell_would_split_is_quoted():
    odd = f"my db_before_{KEPT[-20:]}"
    given = not_restored("Wait", "x", swapping={**SWAPPED, "kept_as": odd}, health=UNHEALTHY, healthy={})
    assert judged(given).next.endswith(f"-e backup='{odd}'")


def test_a_swap_of_a_copy_that_failed_says_so():
    given = not_restored("Swap the copy in", "x", choosing=of_a_copy(), restoring=SKIPPED, swapping=swap_failed())
    assert "The database was not replaced" in judged(given).state
