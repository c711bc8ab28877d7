# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The words on the screen while a run goes on. Data in, text out; nothing here looks anywhere. Pure."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.table import (
    columns,
    count,
    duration,
    moment,
    printable,
    size,
)

_LABEL = 10
_EACH = 3
_STATEMENT_LINES = 6
_WHAT = 60
_WIDTH = 116


def labelled(label: str, text: str) -> str:
    """A line that begins with the phase, as in ``BACKUP    local-... 412 kB``."""
    return f"{label:<{_LABEL}}{text}"


def wrapped(text: str) -> list[str]:
    """Sentences as lines that belong to the one before."""
    return textwrap.wrap(
        printable(" ".join(text.split())),
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def refusal(what: str, found: str, next: str) -> str:
    """Cause, evidence, way out."""
    lines = [labelled("REFUSED", what)]
    lines += [f"  {text}" for text in (found, next) if text]
    return "\n".join([*lines, "  nothing was changed"])


def refusals(data: dict[str, Any]) -> str:
    """Every refusal of a comparison; data: refusals, each with what, found, next."""
    lines = []
    for one in data["refusals"]:
        lines.append(labelled("REFUSED", one["what"]))
        lines += [f"  {text}" for text in (one["found"], one["next"]) if text]
    return "\n".join([*lines, "  nothing was changed"])


def held(data: dict[str, Any]) -> str:
    """Another run holds the lock; data: env, database, holder."""
    return refusal(
        f"another run holds {data['env']}/{data['database']}",
        holder(data["holder"]),
        f"wait, or: ansible-playbook playbooks/status.yml -e env={data['env']}",
    )


def holder(known: dict[str, Any]) -> str:
    """Who holds the run lock, as far as it is known."""
    if not known.get("run_id"):
        return "a run that has just begun or ended"
    who = f" by {known['operator']} on {known.get('from') or 'an unknown host'}" if known.get("operator") else ""
    phase = f", phase {known['phase']}" if known.get("phase") else ""
    since = f", since {moment(known['since'])} UTC" if known.get("since") else ""
    return f"run {known['run_id']}{who}{phase}{since}"


# What a backup and the comparison of a restored one ask of every table, see snapshot.py.
_COUNTED = re.compile(r"SELECT pg_catalog\.count\(\*\) AS rows.* FROM (?:ONLY )?(.+?)(?: AS x)?$")
_JOBS = {"backup": "BACKUP", "copy": "COPY", "restore": "RESTORE", "applied": "APPLY", "reverted": "REVERT"}


def progress(job: str, seconds: float, rows: list[dict[str, Any]]) -> str:
    """What a long step is doing after so many seconds; rows: see progress.read_progress."""
    lines = [_doing(row) for row in rows[:_EACH]] or ["working"]
    label = _JOBS.get(job, job.upper())
    text = "\n".join(labelled("" if at else label, line) for at, line in enumerate(lines))
    return f"{text}   ({duration(seconds)})"


def _doing(row: dict[str, Any]) -> str:
    what = printable(" ".join(str(row["what"]).split()))
    counted = _COUNTED.match(what)
    what = f"counting the rows of {counted[1]}" if counted else what
    what = what if len(what) <= _WHAT else f"{what[:_WHAT]}..."
    if row["kind"] == "statement":
        blocked = f"   waits for pid {', pid '.join(row['blockers'])}" if row.get("blockers") else ""
        return f"{what}   for {duration(row['seconds'] or 0)}{blocked}"
    if not row["total"]:
        return f"{what}   {row['doing'].lower()}, {row['done']} {row['unit']}"
    percent = min(99, 100 * row["done"] // row["total"])
    about = "about " if row["kind"] == "copy" else ""
    return f"{percent:>3} %   {what}   {row['doing'].lower()}, {row['done']} of {about}{row['total']} {row['unit']}"


def resumed(data: dict[str, Any]) -> str:
    """What resume.yml found and put right; data: env, database, runs (reports), going_on, last, services, probes,
    refusals (what could not be put right), finishes."""
    lines = _ended_runs(data["runs"])
    if data["going_on"]:
        lines.append(labelled("RESUME", f"{holder(data['going_on'])} is going on; it was left alone"))
    elif not lines and not data["last"]:
        lines.append(
            labelled("RESUME", f"{data['env']} / {data['database']}: no run was cut off, nothing to put right")
        )
    elif data["last"] and not data["runs"]:
        lines += _ended_runs([data["last"]])
    if data["runs"] or data["last"]:
        lines.append(labelled("SERVICES", _services_now(data["services"], data["probes"])))
    if data["finishes"] and not data["refusals"]:
        lines.append(labelled("RESUME", f"going on with what run {data['last']['run']['id']} had begun"))
    else:
        newest = data["last"] or (data["runs"] or [{"next": ""}])[-1]
        lines += [labelled("NEXT", newest["next"])] if newest["next"] else []
    return "\n".join(lines)


def cancelled(data: dict[str, Any]) -> str:
    """What cancel.yml did, or would do; data: env, database, runs (reports), check."""
    if not data["runs"]:
        look = f"ansible-playbook playbooks/status.yml -e env={data['env']}"
        return labelled("CANCEL", f"{data['env']} / {data['database']}: no run is going on; how things stand: {look}")
    lines = _ended_runs(data["runs"], "WOULD END" if data["check"] else "CUT OFF")
    return "\n".join([*lines, *(labelled("NEXT", one["next"]) for one in data["runs"] if one["next"])])


def _ended_runs(runs: list[dict[str, Any]], label: str = "CUT OFF") -> list[str]:
    lines = []
    for one in runs:
        lines.append(labelled(label, f"run {one['run']['id']} by {one['run']['operator']}"))
        lines += wrapped(one["state"])
    return lines


def _services_now(services: dict[str, list[str]], probes: list[dict[str, Any]]) -> str:
    if not services["running"]:
        return "none is running"
    sick = [probe for probe in probes if not probe["good"]]
    how = f", NOT healthy: {sick[0]['url']}: {sick[0]['reason']}" if sick else ", healthy" if probes else ""
    return f"{', '.join(services['running'])} running{how}"


def nothing(data: dict[str, Any]) -> str:
    """Nothing is pending; data: env, database, current, target."""
    upto = f" up to {data['target']}" if data.get("target") else ""
    return f"{data['env']} / {data['database']}: {_at(data['current'])}, nothing pending{upto}"


def nothing_to_revert(data: dict[str, Any]) -> str:
    """Nothing is to be taken back; data: env, database, from_version."""
    return f"{data['env']} / {data['database']}: {_at(data['from_version'])}, nothing to take back"


def refused(data: dict[str, Any]) -> str | None:
    """Why the screen with this data refuses the run, or None when it does not."""
    if data.get("refusals"):
        return data["refusals"][0]["what"]
    if data.get("holder") is not None:
        return f"another run holds {data['env']}/{data['database']}"
    if "checks" not in data:
        return None
    checks = data["checks"] + health_checks(data)
    failed = [check for check in checks if check["state"] == "fail"]
    return failed[0]["text"] if failed else None


def header(data: dict[str, Any]) -> str:
    """First line of a run; data: run, database, host, server."""
    run = data["run"]
    who = f"by {run['operator']} on {run['origin']}"
    where = f"{run['env']} / {data['database']} @ {data['host']}"
    return f"Runbook {run['id']}   {where}   PostgreSQL {data['server']['version'].split()[0]}   {who}"


def preflight(data: dict[str, Any]) -> str:
    """The run, its checks with their count, and the plan; data: as for header and plan, and checks."""
    checks = data["checks"] + health_checks(data)
    counts = {state: sum(check["state"] == state for check in checks) for state in ("ok", "warn", "fail")}
    summary = f"{counts['ok']} ok" + "".join(
        f", {counts[state]} {word}{'' if counts[state] == 1 else 's'}"
        for state, word in (("warn", "warning"), ("fail", "failure"))
        if counts[state]
    )
    lines = [header(data), labelled("PREFLIGHT", summary)]
    for check in checks:
        lines.append(f"  {check['state']:<4}  {check['text']}")
        if check["next"] and check["state"] != "ok":
            lines.append(f"        {check['next']}")
    if counts["fail"]:
        return "\n".join([*lines, labelled("REFUSED", "preflight failed; nothing was changed")])
    if data["refusals"]:
        return "\n".join([*lines, refusals(data)])
    return "\n".join([*lines, plan(data)])


def health_checks(data: dict[str, Any]) -> list[dict[str, str]]:
    """The preflight's lines about the application before the run; data: probes, public_probes, running."""
    if not data["running"]:
        return [{"state": "warn", "text": "no service is running", "next": "none will be started after the run"}]
    return [_health_check(data["probes"]), *_public_check(data["public_probes"])]


def _public_check(probes: list[dict[str, Any]]) -> list[dict[str, str]]:
    sick = [probe for probe in probes if not probe["good"]]
    if sick:
        text = f"from the controller the application is not healthy: {sick[0]['url']}: {sick[0]['reason']}"
        return [{"state": "warn", "text": text, "next": "it is not asked from there after the run"}]
    text = f"the application is healthy from the controller, too ({count(len(probes), 'address')})"
    return [{"state": "ok", "text": text, "next": ""}] if probes else []


def _health_check(probes: list[dict[str, Any]]) -> dict[str, str]:
    sick = [probe for probe in probes if not probe["good"]]
    if sick:
        text = f"the application is not healthy before the run: {sick[0]['url']}: {sick[0]['reason']}"
        return {
            "state": "fail",
            "text": text,
            "next": "make it healthy first, so that its health afterwards says something",
        }
    return {"state": "ok", "text": f"the application is healthy ({count(len(probes), 'address')})", "next": ""}


def plan(data: dict[str, Any]) -> str:
    """What a run does and what happens when it fails.

    data: pending, current, running (processes that get stopped), warnings_in_files, target, restore_point (planned,
    bytes, seconds, reason; left out where nobody has looked).
    """
    pending = data["pending"]
    if not pending:
        upto = f" up to {data['target']}" if data.get("target") else ""
        return labelled("PLAN", f"nothing pending{upto}, {_at(data['current'])}")
    last = pending[-1]["version"]
    lines = [labelled("PLAN", f"{len(pending)} pending, schema {data['current'] or 'empty'} -> {last}")]
    rows = [["VERSION", "NAME", "RUNS AS", "STATEMENTS", "DOWN"]]
    rows += [[one["version"], one["name"], _mode(one), str(one["statements"]), _down(one["down"])] for one in pending]
    lines += columns(rows)
    lines += [f"  warn  {warning}" for warning in data.get("warnings_in_files", [])]
    lines.append(f"  services to stop: {', '.join(data['running']) or 'none is running'}")
    point = data.get("restore_point") or {}
    lines += _restore_point(point)
    lines += _if_it_fails(pending, data["current"], bool(data["running"]), bool(point.get("planned")))
    return "\n".join(lines)


def _restore_point(point: dict[str, Any]) -> list[str]:
    if not point:
        return []
    if point["planned"]:
        return [
            f"  restore point: a copy of {size(point['bytes'])} inside the server, about {duration(point['seconds'])}"
        ]
    return [f"  restore point: none, {printable(point['reason'])}"]


def _at(version: str | None) -> str:
    return f"schema is at {version}" if version else "the schema is empty"


def _mode(one: dict[str, Any]) -> str:
    return {"transaction": "transaction", "steps": "steps", "as_written": "as written"}[one["mode"]]


def _down(down: dict[str, str]) -> str:
    if down["state"] == "ok":
        return "yes"
    return f"no: {down['reason']}" if down["reason"] else "no"


def _if_it_fails(pending: list[dict[str, Any]], current: str | None, running: bool, point: bool) -> list[str]:
    """What state a failure would leave: every migration by itself while they are few, those in steps always."""
    if point:
        where = f"the services start on {_schema(current)}" if running else f"the database is at {_schema(current)}"
        first, *more = pending
        if first["mode"] == "transaction" and not more:
            lines = [f"  if {first['version']} fails: PostgreSQL rolls it back, {where}"]
        else:
            lines = [f"  if a migration fails: what was committed is undone by the restore point, {where}"]
        return [*lines, *([f"  if health fails: the restore point is put back, {where}"] if running else [])]
    lines = []
    reached = [current, *(one["version"] for one in pending)]
    many = len(pending) > _EACH
    if many:
        lines.append("  if one fails: those before it stay, those behind it are not tried")
    for before, one in zip(reached, pending):
        if many and one["mode"] == "transaction" and one is not pending[-1]:
            continue
        undone = "PostgreSQL rolls it back" if one["mode"] == "transaction" else "it stays partial, on record"
        start = f"the services start on {_schema(before)}" if running else f"the database is at {_schema(before)}"
        lines.append(f"  if {one['version']} fails: {undone}, {start}")
    if running:
        stay = f"the services stay up on {_schema(reached[-1])}, the command to roll back is shown"
        lines.append(f"  if health fails: {stay}")
    return lines


def _schema(version: str | None) -> str:
    return f"schema {version}" if version else "the empty schema"


def backup(data: dict[str, Any]) -> str:
    """The proved backup; data: backup (id, size, sha256, restore_seconds), seconds."""
    one = data["backup"]
    proof = f"{_proof(one['restore_seconds'])}, sha256 {one['sha256'][:8]}..."
    return labelled("BACKUP", f"{one['id']}   {size(one['size'])}   {duration(data['seconds'])}   {proof}")


def _proof(restore_seconds: float | None) -> str:
    if restore_seconds is None:
        return "read back whole, not restored"
    return f"restored and compared in {duration(restore_seconds)}"


def stopping(data: dict[str, Any]) -> str:
    """What is being stopped; data: running."""
    return labelled("STOP", f"{', '.join(data['running'])}" if data["running"] else "no service is running")


def applied(data: dict[str, Any]) -> str:
    """The applied migrations; data: applied, other_sessions, restore_point, put_back (when it was tried)."""
    undone = ", put back since" if (data.get("put_back") or {}).get("done") else ""
    rows = [
        [one["version"], one["name"], f"applied in {duration(one['duration_ms'] / 1000)}{undone}"]
        for one in data["applied"]
    ]
    lines = columns(rows, indent=" " * _LABEL)
    if lines:
        lines[0] = labelled("APPLY", lines[0].strip())
    point = data.get("restore_point") or {}
    if point.get("reason"):
        lines.append(f"  warn  no restore point could be taken: {printable(point['reason'])}")
    for one in data.get("other_sessions") or []:
        lines.append(f"  warn  still connected: pid {one['pid']} {one['role']} ({one['app'] or 'no name'})")
    return "\n".join(lines)


def starting(data: dict[str, Any]) -> str:
    """What is being started; data: running."""
    return labelled("START", ", ".join(data["running"]) or "nothing: no service was running before")


def healthy(data: dict[str, Any]) -> str:
    """The gate was passed; data: probes, now, and since (when the stop began, or None)."""
    good = min((probe["good"] for probe in data["probes"]), default=0)
    text = f"{count(len(data['probes']), 'address')} gave {count(good, 'good answer')} in a row"
    window = f", window {duration(data['now'] - data['since'])}" if data["since"] is not None else ""
    return labelled("HEALTH", f"{text}{window}")


def baseline(data: dict[str, Any]) -> str:
    """What was recorded without being run; data: result of schema_migrations."""
    if not data["recorded"]:
        return labelled("BASELINE", f"nothing to record, the ledger is at {data['to_version']}")
    versions = ", ".join(data["recorded"])
    return labelled("BASELINE", f"{versions} recorded without being run; the schema is at {data['to_version']}")


def failure(found: dict[str, Any]) -> list[str]:
    """A failed migration: where, why, what the server said."""
    # The text of a down migration may be that of the ledger, which is no file.
    comma = ":" if found["file"].endswith(".sql") else ", line "
    where = f"{found['file']}{comma}{found['line']}:{found['column']}"
    code = f"   (SQLSTATE {found['sqlstate']})" if found.get("sqlstate") else ""
    lines = [labelled("FAILED", f"{where}   {printable(' '.join(found['message'].split()))}{code}")]
    statement = found["statement"].splitlines()
    lines += [f"  | {printable(line.expandtabs())}" for line in statement[:_STATEMENT_LINES]]
    if len(statement) > _STATEMENT_LINES:
        lines.append(f"  | ... {count(len(statement) - _STATEMENT_LINES, 'more line')}")
    for name in ("detail", "hint", "context", "advice"):
        if found.get(name):
            lines.append(f"  {name}: {printable(' '.join(found[name].split()))}")
    return lines
