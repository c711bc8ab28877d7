# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a run's journal says: how far it came, what it stopped, and how things were left by whoever ended it. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.command_line import command
from ansible_collections.habitat.runbook.plugins.module_utils.table import cell

FORMAT = 1
NOT_READ = "not read"
STOP, START, APPLY, REVERT, SWAP, GUARD = "STOP", "START", "APPLY", "REVERT", "SWAP", "GUARD"
COMMIT, WINDOW, RELEASE = "commit", "window", "release"

_REPEATED = (
    *("target", "backup", "to", "steps", "accept_data_loss", "tag", "adopt_identity", "reason", "kept", "import"),
    "confirm",
)
_WORDS = {
    "PREFLIGHT": "the checks ran",
    "BACKUP": "the backup was taken",
    "COPY": "the backup was copied off the host",
    "RETAIN": "old backups were removed",
    "RESTORE": "the backup was restored beside the database",
    "STOP": "the services were stopped",
    "APPLY": "migrations were applied",
    "REVERT": "down migrations ran",
    "SWAP": "the database was swapped",
    "ACCESS": "the application was let in again",
    "START": "the services were started",
    "HEALTH": "the application was asked for its health",
    "SALVAGE": "what only the kept database has was written to a file",
    "IMPORT": "that file was imported",
}


@dataclass
class Progress:
    """How far a run came. ``stopped``: services it stopped and has not started; ``opened``: when the window began, on
    the journal's monotonic clock (None: services are not stopped); ``commits``: versions whose COMMIT was sent, each
    with its transaction's xid; ``downs``: versions to be taken back; ``working``: whether the last step has not come to
    its end; ``righted``: whether somebody has put things right already."""

    phase: str = ""
    working: bool = False
    touched: bool = False
    opened: float | None = None
    stopped: list[str] = field(default_factory=list)
    manager: dict[str, Any] = field(default_factory=dict)
    commits: dict[str, dict[str, Any]] = field(default_factory=dict)
    from_version: str | None = None
    downs: list[str] = field(default_factory=list)
    swapped: bool = False
    righted: bool = False

    def follow(self, lines: Iterable[dict[str, Any]]) -> Progress:
        """Take more lines of the journal into account; returns itself."""
        for line in lines:
            what, event = line["what"], line["event"]
            if what == COMMIT:
                self._commit(line)
            elif what in _WORDS:
                self._step(line, what, event)
            elif what == GUARD:
                self.righted = self.righted or event == "done"
        return self

    def stopping(self, now: float, seconds: float) -> bool:
        """Whether a stop may still go on whose step is gone, ``seconds`` at most; now: by the journal's clock."""
        recent = self.opened is not None and 0 <= now - self.opened < seconds
        return recent and self.phase == STOP and self.working and not self.righted

    def _step(self, line: dict[str, Any], what: str, event: str) -> None:
        self.phase, self.working = what, event == "intent"
        if what in (APPLY, REVERT) and event == "intent" and self.from_version is None:
            self.from_version = line.get("from_version") or "empty"
            self.downs = line.get("downs") or []
        if what == SWAP and event == "done":
            self.swapped = True
        if what == STOP and event == "intent":
            self.stopped = list(dict.fromkeys([*self.stopped, *line.get("names", [])]))
            self.manager = line.get("manager") or self.manager
            self.touched = self.touched or bool(self.stopped)
            self.opened = line["mono"] if self.opened is None and self.stopped else self.opened
        if what == START and event == "done":
            self.stopped = [name for name in self.stopped if name not in line.get("names", [])]
            self.opened = self.opened if self.stopped else None

    def _commit(self, line: dict[str, Any]) -> None:
        self.commits[line["version"]] = {"xid": line.get("xid"), "answered": line["event"] == "done"}


def again(run: dict[str, Any]) -> str:
    """The command of a run as it was typed, with what it picked and guarded."""
    inputs = {name: run["inputs"][name] for name in _REPEATED if name in run["inputs"]}
    given = [f"-e {name}={shlex.quote(value)}" for name, value in inputs.items()]
    return " ".join([f"ansible-playbook {run['command']} -e env={run['env']}", *given])


def resume(run: dict[str, Any]) -> str:
    """The command that puts things right after a run that was cut off, and finishes what it began."""
    confirm = {"confirm": run["inputs"]["confirm"]} if "confirm" in run["inputs"] else {}
    return command("playbooks/resume.yml", run["env"], **confirm)


def goes_on(run: dict[str, Any]) -> str:
    """In which way resume.yml finishes such a run: "migrate", "revert" when it goes down to a version, or not: ""."""
    if migrates(run):
        return "migrate"
    return "revert" if _is(run, "rollback") and "to" in run["inputs"] else ""


def migrates(run: dict[str, Any]) -> bool:
    """Whether a run applies migrations."""
    return _is(run, "migrate")


def _is(run: dict[str, Any], playbook: str) -> bool:
    """Whether a run is of this playbook, by its path or by its full name."""
    return run["command"].removesuffix(".yml").endswith(playbook)


def where(progress: Progress) -> str:
    """At which moment the run ended, as the end of a sentence."""
    if not progress.phase:
        return "before anything was touched"
    return f"{'while' if progress.working else 'after'} {_WORDS[progress.phase]}"


@dataclass
class Righted:
    """What was put right after a run that was cut off, by whom, and what could not be. ``schema``: the newest version
    in the ledger, all of which are ``applied``."""

    by: str
    why: str
    sessions_ended: int = 0
    step_ended: str = ""
    let_in: bool = False
    started: list[str] = field(default_factory=list)
    healthy: bool | None = None
    commits: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    down_seconds: float | None = None
    schema: str = NOT_READ
    applied: list[str] = field(default_factory=list)


def report(run: dict[str, Any], progress: Progress, righted: Righted, finished_at: str) -> dict[str, Any]:
    """The report of a run that did not come to its own end: the keys of every report that status shows, and more."""
    well = not righted.problems
    before = progress.from_version
    moved = before is not None and righted.schema not in (before, NOT_READ)
    return {
        "format": FORMAT,
        "run": run,
        "database": run["database"],
        "host": run["host"],
        "outcome": "stopped_safe" if well and righted.healthy is not False else "needs_operator",
        "cut_off": True,
        "phase": progress.phase,
        "schema": f"{before} -> {righted.schema}" if moved else righted.schema,
        "finished_at": finished_at,
        "state": sentence(progress, righted),
        "next": _next(run, progress, righted),
        "ended_by": righted.by,
        "why": righted.why,
        "down_seconds": righted.down_seconds,
        "commits": righted.commits,
        "problems": righted.problems,
    }


def _next(run: dict[str, Any], progress: Progress, righted: Righted) -> str:
    if goes_on(run) or righted.problems or (progress.downs and righted.schema == NOT_READ):
        return resume(run)
    if "steps" in run["inputs"] and progress.downs:
        # Those that are gone would be followed by others.
        left = sum(version in righted.applied for version in progress.downs)
        run = {**run, "inputs": {**run["inputs"], "steps": str(left)}}
        return again(run) if left else ""
    return "" if progress.swapped else again(run)


def sentence(progress: Progress, righted: Righted) -> str:
    """What happened and how things are, in words."""
    said = [f"The run was cut off {where(progress)}: {righted.why}."]
    rolled_back = ", and PostgreSQL rolled back what was open there."
    if righted.step_ended:
        # Its sessions may have ended with it, before there was anything to end.
        silent = righted.step_ended in (APPLY, REVERT) and not righted.sessions_ended
        said.append(f"Its step {righted.step_ended} was ended{rolled_back if silent else '.'}")
    if righted.sessions_ended:
        sessions = "database session was" if righted.sessions_ended == 1 else "database sessions were"
        said.append(f"{righted.sessions_ended} {sessions} ended{rolled_back}")
    for version, became in righted.commits.items():
        said.append(f"The COMMIT of {version} was under way: {became}.")
    if righted.let_in:
        said.append("The application may connect again.")
    if righted.started:
        said.append(f"Started again: {', '.join(righted.started)}.")
    elif not progress.touched:
        said.append("The services were not touched.")
    elif not progress.stopped:
        said.append("The services had been started again before.")
    if righted.down_seconds:
        said.append(f"The application did not answer for {righted.down_seconds:.1f} s.")
    if righted.healthy is False:
        said.append("The application does NOT answer well.")
    said += [f"NOT put right: {problem}." for problem in righted.problems]
    return " ".join(said)


def markdown(told: dict[str, Any]) -> str:
    """The report for people."""
    run = told["run"]
    lines = [
        f"# Run {run['id']}: cut off",
        "",
        f"* {run['env']} / {cell(told['database'])} on {cell(told['host'])}, "
        f"by {cell(run['operator'])} from {cell(run['origin'])}",
        f"* ended {told['finished_at']} by {told['ended_by']}, outcome {told['outcome']}",
        "",
        cell(told["state"]),
        *(["", "```", " ".join(told["next"].split()), "```"] if told["next"] else []),
        "",
        "```json",
        json.dumps({name: told[name] for name in ("phase", "commits", "problems", "down_seconds")}, indent=2),
        "```",
    ]
    return "\n".join(lines)


def down_seconds(probes: Iterable[dict[str, Any]]) -> float | None:
    """The longest time without a good answer between two good rounds of probes; None when there was none.

    probes: ``{"mono": when it was asked, "good": whether every address gave a good answer}``, oldest first.
    """
    longest, last_good, between = 0.0, None, False
    for probe in probes:
        if not probe["good"]:
            between = True
        elif last_good is not None and between:
            longest = max(longest, probe["mono"] - last_good)
        if probe["good"]:
            last_good, between = probe["mono"], False
    return round(longest, 1) if longest else None
