"""One fault from preparation to verdict: cut a run off, look, type what status says, look again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.faults import invariants
from tests.faults.stand import PATIENT_SILENCE, SILENCE, SLACK, Command, Stand, next_command, quick
from tests.faults.verbs import Verb
from tests.playbooks.conftest import Finished


@dataclass
class Outcome:
    """One line of the table. ``outage``: unplanned seconds without the API; ``limit``: how many there may be."""

    verb: str
    point: str
    signal: str
    outage: float = 0.0
    limit: float = SILENCE + SLACK
    broken: list[str] = field(default_factory=list)
    note: str = ""
    seconds: float = 0.0
    shown: str = ""

    @property
    def well(self) -> bool:
        return not self.broken

    def expect(self, so: object, what: str) -> None:
        if not so:
            self.broken.append(what)


class TooBusy(Exception):
    """The guard took the run for dead before it was struck: the machine is too busy for so short a silence."""


@dataclass
class Shot:
    """What is done to a run: ``strike`` gets the stand and the running command and returns when it struck."""

    verb: Verb
    point: str
    signal: str
    strike: Callable[[Stand, Command], float]
    environment: dict[str, str] = field(default_factory=dict)
    slow: float | None = None
    guarded: bool = True
    by_runner: bool = False


def fire(stand: Stand, shot: Shot, finish: bool = True) -> Outcome:
    """Cut a run off and follow it to its good end; what does not hold is in the outcome, nothing is raised.

    finish: whether to type afterwards what status says, or only to look.
    """
    begun = time.monotonic()
    try:
        outcome = _try(stand, shot, finish, stand.silence)
    except TooBusy:
        stand.silence = PATIENT_SILENCE / 2
        outcome = _try(stand, shot, finish, PATIENT_SILENCE)
        outcome.note += f" (second try, silence {PATIENT_SILENCE:.0f} s)"
    outcome.seconds = time.monotonic() - begun
    if outcome.broken:
        outcome.shown = everything_shown(stand)
    return outcome


def _try(stand: Stand, shot: Shot, finish: bool, silence: float) -> Outcome:
    outcome = Outcome(shot.verb.name, shot.point, shot.signal, limit=silence + stand.slack)
    try:
        shot.verb.prepare(stand)
        if shot.slow is not None:
            stand.write_slow(shot.slow)
        _cut_off(stand, shot, outcome, silence)
        if finish:
            _finish(stand, shot.verb, outcome)
    except TooBusy as error:
        if silence == stand.silence:
            raise
        outcome.broken.append(f"{type(error).__doc__}")
    except Exception as error:  # a fault that finds what nobody thought of is a result, too
        outcome.broken.append(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return outcome


def _cut_off(stand: Stand, shot: Shot, outcome: Outcome, silence: float) -> None:
    launch = stand.launch_by_runner if shot.by_runner else stand.launch
    command = launch(*shot.verb.typed, *quick(silence), **shot.environment)
    try:
        struck = shot.strike(stand, command)
    except (AssertionError, OSError):
        command.gone()
        if _guard_acted(stand, command.begun, time.monotonic()):
            raise TooBusy from None
        raise
    command.gone()
    if _guard_acted(stand, command.begun, struck):
        raise TooBusy
    begun = _end_of_work(stand, struck)
    was_up = stand.clients.was_good_since(command.begun)
    bounded = shot.guarded and was_up
    if bounded:
        _await_api(stand, begun + outcome.limit)
        outcome.outage = stand.clients.outage(begun)
        outcome.expect(outcome.outage <= outcome.limit, f"I1 the API was down for {outcome.outage:.1f} s")
    up = stand.clients.good()
    outcome.expect(up or not bounded, "I1 the API is down")
    outcome.broken += [f"before: {one}" for one in invariants.broken(stand, up=up)]
    if not up:
        outcome.note = "API down until resume.yml, as status.yml says"


def _guard_acted(stand: Stand, since: float, until: float) -> bool:
    """Whether a guard began to put things right in this time."""
    lines = [line for folder in stand.run_folders() for line in stand.journal(folder)]
    return any(line.get("by") == "the guard" and since < line["mono"] < until for line in lines)


def _await_api(stand: Stand, until: float) -> None:
    while not stand.clients.good() and time.monotonic() < until + 1:
        time.sleep(0.05)
    # The prober has to have seen it, too.
    time.sleep(0.3)


def _end_of_work(stand: Stand, struck: float) -> float:
    """The later of the blow and the end of the last step that went on after it, by the journal."""
    latest = struck
    for folder in stand.run_folders():
        for line in stand.journal(folder):
            if line["what"] == "GUARD":
                break
            if line["event"] in ("done", "failed") and line["what"] not in ("commit", "release"):
                latest = max(latest, line["mono"])
    return latest


def _finish(stand: Stand, verb: Verb, outcome: Outcome) -> None:
    """Type what status says and what was typed before, until nothing is left to do; then look again."""
    typed = _type_next(stand, outcome)
    for command in _still_to_type(stand, verb, typed):
        done = stand.type(*command)
        outcome.expect(done.code == 0, f"I8 {command[0]} ends with {done.code}: {_last(done)}")
    if verb.repeats:
        _nothing_left(stand, verb.typed, outcome)
    else:
        done = stand.type("migrate.yml")
        outcome.expect(done.code == 0, f"I8 the migration after it ends with {done.code}: {_last(done)}")
        _nothing_left(stand, ("migrate.yml",), outcome)
    goal = verb.goal if verb.repeats else "07"
    outcome.expect(stand.versions()[-1:] == [goal], f"I8 at version {stand.versions()[-1:]}, not {goal}")
    outcome.broken += [f"after: {one}" for one in invariants.broken(stand)]


def _type_next(stand: Stand, outcome: Outcome) -> list[str]:
    """Read the status, check that it tells the truth, and type its next command; returns that."""
    status = stand.type("playbooks/status.yml")
    outcome.expect(status.code == 0, f"I9 status.yml ends with {status.code}: {_last(status)}")
    outcome.expect("NEXT" in status.screen, "I9 status.yml names no next step")
    for run in _cut_off_runs(stand):
        outcome.expect(run in status.screen and "cut off" in status.screen, f"I9 status.yml is silent about run {run}")
    typed = next_command(status.screen)
    if typed:
        outcome.note = outcome.note or f"next: {typed[0]}"
        done = stand.type(*typed)
        outcome.expect(done.code == 0, f"I9 {' '.join(typed)} ends with {done.code}: {_last(done)}")
    else:
        outcome.expect("nothing to do" in status.screen, "I9 NEXT is no command")
    return typed


def _cut_off_runs(stand: Stand) -> list[str]:
    """The newest run, if it was cut off; an older one may have been finished since."""
    found = [path.parent for path in stand.runs.glob("2*/run.json")]
    for folder in sorted(stand.runs.glob("reports/*"))[-1:]:
        with contextlib.suppress(FileNotFoundError):
            if '"cut_off": true' in (folder / "report.json").read_text():
                found.append(folder)
    return [folder.name for folder in found]


def _still_to_type(stand: Stand, verb: Verb, typed: list[str]) -> list[tuple[str, ...]]:
    """What was typed before, unless the next command has already brought things where they should be."""
    if verb.typed[0] == "playbooks/resume.yml":
        return []
    at_goal = stand.versions()[-1:] == [verb.goal]
    gone_on = not verb.repeats and typed[:1] == ["migrate.yml"]
    return [] if at_goal or gone_on else [verb.typed]


def _nothing_left(stand: Stand, typed: tuple[str, ...], outcome: Outcome) -> None:
    done = stand.type(*typed)
    changed = {host: count for host, count in done.changed.items() if count}
    outcome.expect(
        done.code == 0 and done.changed and not changed, f"I8 typed again it changes {changed}, {_last(done)}"
    )


def _last(done: Finished) -> str:
    """The line of a screen that says what was wrong."""
    lines = [line for line in done.screen.splitlines() if line.strip() and ": ok=" not in line and "RECAP" not in line]
    telling = [line for line in lines if line.startswith(("FAILED", "REFUSED", "RESULT", "fatal"))]
    return " ".join((telling or lines or [""])[-1].split())[:200]


def everything_shown(stand: Stand) -> str:
    screens = sorted(stand.screens.glob("*.txt"))
    journals = [path for folder in stand.run_folders() for path in (folder / "journal.ndjson", folder / "report.json")]
    texts = [f"--- {path}\n{path.read_text(errors='replace')}" for path in [*screens, *journals] if path.exists()]
    return "\n".join(texts)
