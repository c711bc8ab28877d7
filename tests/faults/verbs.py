"""The verbs that are cut off: how each is prepared, what is typed, and where it has to come to in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.callback_plugins.nemesis import strike
from tests.faults.stand import Stand, prepare_07, wait_for

APPLYING = (
    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND application_name LIKE 'runbook%'"
)


@dataclass(frozen=True)
class Verb:
    """``typed``: playbook and arguments; ``goal``: the version it leads to; ``repeats``: typed again it does nothing."""

    name: str
    typed: tuple[str, ...]
    goal: str
    prepare: Callable[[Stand], None]
    repeats: bool = True


def _at_05(stand: Stand) -> None:
    stand.reset("habitat_05")


def _at_07(stand: Stand) -> None:
    prepare_07(stand)
    stand.reset("habitat_07", backups=stand.kept_backups)


def _cut_off_after_stop(stand: Stand) -> None:
    """A run whose controller and guard are gone, with the services stopped."""
    stand.reset("habitat_05", slow=1)
    cut_off(stand, lambda: _said(stand, "done", "STOP"))


def _cut_off_in_apply(stand: Stand) -> None:
    """The same with the fence closed, 07 committed and 08 not."""
    stand.reset("habitat_05", slow=4)
    cut_off(stand, lambda: stand.query(APPLYING) == [(1,)])
    stand.write_slow(0.2)


def cut_off(stand: Stand, moment: Callable[[], object]) -> None:
    command = stand.launch("migrate.yml")
    wait_for(moment, "the moment to cut it off")
    strike(command.process.pid, "SIGKILL")
    command.kill_all()
    command.gone()
    assert stand.run_folders(), command.screen


def _said(stand: Stand, event: str, what: str) -> bool:
    folders = stand.run_folders()
    return bool(folders) and any((line["event"], line["what"]) == (event, what) for line in stand.journal(folders[0]))


_RESUME = ("playbooks/resume.yml",)

VERBS = {
    verb.name: verb
    for verb in (
        Verb("migrate", ("migrate.yml",), "07", _at_05),
        Verb("migrate, slow", ("migrate.yml",), "08", _at_05),
        Verb("restore", ("rollback.yml", "-e", "backup=latest"), "05", _at_07, repeats=False),
        Verb("down", ("rollback.yml", "-e", "to=05", "-e", "accept_data_loss=true"), "05", _at_07),
        Verb("resume", _RESUME, "08", _cut_off_after_stop),
        Verb("resume in apply", _RESUME, "08", _cut_off_in_apply),
    )
}
