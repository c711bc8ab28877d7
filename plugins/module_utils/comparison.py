# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Compare the migration files with the ledger: the state of every version, what is pending, what must be refused.

Pure: files come as heads of a bundle (dicts), the ledger as a dict of lists, both made elsewhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from ansible_collections.habitat.runbook.plugins.module_utils.command_line import command
from ansible_collections.habitat.runbook.plugins.module_utils.identity import contradiction

APPLIED = "applied"
BASELINE = "baseline"
BY_HAND = "by hand"
PENDING = "pending"
OUT_OF_ORDER = "out of order"
CHANGED = "changed"
MISSING = "missing"
PARTIAL = "partial"

_DONE = (APPLIED, BASELINE, BY_HAND, CHANGED, MISSING)
_HASH_SHOWN = 8
_LISTED = 20


@dataclass(frozen=True)
class Refusal:
    """Why a run must not start: what is wrong, what was found, and what to do next."""

    what: str
    found: str
    next: str


@dataclass
class VersionState:
    """One line of the status table: a version known to the files, to the ledger, or to both."""

    version: str
    name: str
    state: str
    file: str | None = None
    applied_at: str | None = None
    applied_by: str | None = None
    duration_ms: int | None = None
    run_id: str | None = None
    done: int | None = None
    total: int | None = None
    error: str | None = None

    @property
    def number(self) -> int:
        return int(self.version)

    @property
    def label(self) -> str:
        """The state as people read it, such as ``partial 2/5``."""
        return f"{PARTIAL} {self.done}/{self.total}" if self.state == PARTIAL else self.state


@dataclass
class Comparison:
    """Files against ledger: every version in order, the current version, and the refusals."""

    states: list[VersionState] = field(default_factory=list)
    current: str | None = None
    refusals: list[Refusal] = field(default_factory=list)

    def pending(self, target: str | None = None) -> list[VersionState]:
        """What a run applies, in order, up to and including ``target``."""
        limit = None if target is None else int(target)
        waiting = [state for state in self.states if state.state in (PENDING, PARTIAL)]
        return [state for state in waiting if limit is None or state.number <= limit]

    def as_data(self) -> dict:
        """The comparison as plain data for results, reports and screens."""
        return {
            "current": self.current,
            "versions": [dict(asdict(state), label=state.label) for state in self.states],
            "refusals": [asdict(refusal) for refusal in self.refusals],
        }


def compare(heads: list[dict], ledger: dict, env: str) -> Comparison:
    """Compare bundle heads with the ledger.

    The head of a partial migration carries ``prefix``, the digest of the statements that ran, recomputed from the file.
    ledger: ``{"exists": bool, "foreign": str or None, "objects": int, "rows": [...], "progress": [...], "environment":
    str or None}`` as ``ledger.read_ledger`` returns it; ``objects`` counts what else the database holds.
    """
    rows, strange = _rows_by_number(ledger["rows"])
    files = {int(head["version"]): head for head in heads}
    # A migration of which no statement ran and whose file is gone was never begun.
    begun = [row for row in ledger["progress"] if row["done"] or int(row["version"]) in files]
    progress = {int(row["version"]): row for row in begun}
    result = Comparison(refusals=_refuse_ledger(ledger, heads, strange, env))
    newest = rows[max(rows)] if rows else None
    for number in sorted(set(files) | set(rows) | set(progress)):
        below = newest is not None and number < int(newest["version"])
        state = _state(files.get(number), rows.get(number), progress.get(number), below)
        result.states.append(state)
        result.refusals += _refuse_state(state, files.get(number), rows.get(number), newest, env)
        result.refusals += _refuse_partial(state, files.get(number), progress.get(number))
    result.current = newest["version"] if newest else None
    return result


def refuse_target(comparison: Comparison, target: str | None, env: str) -> list[Refusal]:
    """Refuse a target that is no version, that no file has, or that lies below the current version."""
    if target is None:
        return []
    known = [state.version for state in comparison.states if state.file]
    if not (target.isascii() and target.isdigit()):
        return [Refusal(f'target is "{target}"', f"a version is digits, such as {known[-1] if known else '07'}", "")]
    if int(target) not in [int(version) for version in known]:
        return [Refusal(f"there is no migration {target}", f"known: {_listed(known)}", "")]
    if comparison.current is not None and int(target) < int(comparison.current):
        return [
            Refusal(
                f"target {target} is below the current version {comparison.current}",
                "migrate.yml only goes up",
                f"to go back: {command('rollback.yml', env, to=target)}",
            )
        ]
    return []


def baseline_versions(comparison: Comparison, ledger: dict, to: str, env: str) -> tuple[list[str], list[Refusal]]:
    """Versions that ``baseline`` records without running them, or the refusals that keep it from doing so."""
    known = {state.number: state for state in comparison.states if state.file}
    if not (to.isascii() and to.isdigit() and int(to) in known):
        names = _listed([state.version for state in known.values()])
        return [], [Refusal(f'there is no migration "{to}"', f"known: {names}", "")]
    if not ledger["objects"] and not ledger["rows"]:
        found = "there is nothing a baseline could stand for"
        return [], [Refusal("the database is empty", found, f"run: {command('migrate.yml', env)}")]
    wanted = [state for number, state in sorted(known.items()) if number <= int(to)]
    missing = [state.version for state in wanted if state.state not in _DONE]
    recorded = [state.version for state in comparison.states if state.state in (APPLIED, CHANGED)]
    if missing and recorded:
        found = f"the ledger already records runs (newest: {recorded[-1]}), and {missing[0]} is not among them"
        return [], [Refusal("baseline is for a database without runs", found, "apply the rest with migrate.yml")]
    return missing, []


def _listed(versions: list[str]) -> str:
    """Versions for one line of the screen: all while they are few, else the first and the last ones."""
    if len(versions) > _LISTED:
        return f"{', '.join(versions[:3])}, ... {', '.join(versions[-3:])} ({len(versions)} in all)"
    return ", ".join(versions) or "none"


def _rows_by_number(rows: list[dict]) -> tuple[dict[int, dict], list[str]]:
    """Rows by their number, and what is wrong with the versions: no number, or a number written in two ways."""
    numbered: dict[int, dict] = {}
    strange = []
    for row in rows:
        version = str(row["version"])
        if not (version.isascii() and version.isdigit()):
            strange.append(f'version "{version}" is no number')
        elif int(version) in numbered and numbered[int(version)]["version"] != version:
            strange.append(f'versions "{numbered[int(version)]["version"]}" and "{version}" are the same number')
        elif int(version) not in numbered or row.get("checksum") is not None:
            numbered[int(version)] = dict(row, version=version)
    return numbered, strange


def _state(head: dict | None, row: dict | None, progress: dict | None, below_newest: bool) -> VersionState:
    version = str((row or head or progress or {})["version"])
    name = (head or row or progress or {}).get("name") or ""
    state = VersionState(version, name, PENDING, file=head["file"] if head else None)
    if row:
        state.applied_at = row.get("applied_at")
        state.applied_by = row.get("applied_by")
        state.duration_ms = row.get("duration_ms")
        state.run_id = row.get("run_id")
        state.state = _recorded_state(head, row)
    elif progress:
        state.state = PARTIAL
        state.done, state.total = progress["done"], progress["total"]
        state.error, state.run_id = progress.get("error"), progress.get("run_id")
    elif below_newest:
        state.state = OUT_OF_ORDER
    return state


def _recorded_state(head: dict | None, row: dict) -> str:
    if row.get("checksum") is None:
        return BY_HAND
    if head is None:
        return MISSING
    if head["checksum"] != row["checksum"]:
        return CHANGED
    return BASELINE if row.get("kind") == BASELINE else APPLIED


def _refuse_state(
    state: VersionState, head: dict | None, row: dict | None, newest: dict | None, env: str
) -> list[Refusal]:
    if state.state == CHANGED and head and row:
        was, now = row["checksum"][:_HASH_SHOWN], head["checksum"][:_HASH_SHOWN]
        return [
            Refusal(
                f"{state.file} was changed after it was applied",
                f"applied {_day(state.applied_at)} with sha256 {was}..., now {now}...",
                f"restore the file (git log -- {state.file}) and put the change into a new migration",
            )
        ]
    if state.state == MISSING and row:
        name = f"{state.version}_{state.name}.sql" if state.name else f"the file of {state.version}"
        return [
            Refusal(
                f"migration {state.version} is applied but its file is missing",
                f"applied {_day(state.applied_at)} as {name}",
                f"bring the file back (git log --diff-filter=D -- 'schema/{state.version}_*')",
            )
        ]
    if state.state == OUT_OF_ORDER and newest:
        top = newest["version"]
        rename = f"rename it to a version above {top}"
        if newest.get("checksum") is None or newest.get("kind") == BASELINE:
            # Somebody recorded the newest without running it: the older ones are probably there, too.
            record = command("playbooks/baseline.yml", env, to=top)
            rename = f"if the database already has it: {record}; if not, {rename}"
        found = f"{top} is already applied and {state.version} is not"
        return [Refusal(f"{state.file} is out of order", found, rename)]
    return []


def _refuse_partial(state: VersionState, head: dict | None, progress: dict | None) -> list[Refusal]:
    """A partial migration goes on only where the statements that already ran are still the same."""
    if state.state != PARTIAL or progress is None or progress["done"] == 0:
        return []
    found = f"{progress['done']} of its {progress['total']} statements already ran, outside a transaction"
    if head is None:
        return [
            Refusal(
                f"the file of partial {state.version} is missing", found, "bring the file back (git log -- schema/)"
            )
        ]
    if head["mode"] == "transaction":
        mark = "put `-- migrate: transaction=false` at the top of the file; it goes on where it stopped"
        return [Refusal(f"{state.file} was begun in steps and could be one transaction now", found, mark)]
    if head.get("prefix") == progress["prefix"]:
        return []
    restore = f"restore those statements as they were (git log -- {state.file}); the ones that did not run may change"
    return [Refusal(f"{state.file} was changed after it was begun", found, restore)]


def refuse_environment(ledger: dict, env: str) -> list[Refusal]:
    """Refuse a database that says it is of another environment than ``env``."""
    wrong = contradiction(ledger.get("environment"), env)
    return [Refusal(*wrong)] if wrong else []


def _refuse_ledger(ledger: dict, heads: list[dict], strange: list[str], env: str) -> list[Refusal]:
    elsewhere = refuse_environment(ledger, env)
    if elsewhere:
        return elsewhere
    if ledger["foreign"]:
        return [
            Refusal(
                "the table schema_migrations is not the runbook's",
                ledger["foreign"],
                "nothing is done to another tool's table; rename it and record a baseline",
            )
        ]
    if strange:
        found = "; ".join(strange[:3])
        return [Refusal("the ledger holds a version that cannot be used", found, "correct it in schema_migrations")]
    if not ledger["rows"] and not ledger["progress"] and ledger["objects"]:
        newest = heads[-1]["version"] if heads else "NN"
        return [
            Refusal(
                "the database is not empty but has no ledger of migrations",
                f"{ledger['objects']} tables, views, types or functions and no row in schema_migrations",
                f"record what it already has: {command('playbooks/baseline.yml', env, to=newest)}"
                f"   ({newest}, or the last migration it really contains)",
            )
        ]
    return []


def _day(timestamp: str | None) -> str:
    return (timestamp or "at an unknown time")[:19].replace("T", " ")
