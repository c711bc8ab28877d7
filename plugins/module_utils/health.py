# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Is the application healthy: several good answers in a row from every address, before a deadline.

Pure apart from the two functions given in, so that it is tested without a server and used with a real one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_BODY_SHOWN = 200


@dataclass(frozen=True)
class Expectation:
    """What a good answer is: its status, and the keys and values its JSON body must at least have."""

    status: int = 200
    body: dict[str, Any] = field(default_factory=dict)


@dataclass
class Probe:
    """The state of one address: answers in a row that were good, tries, and why the last one was not."""

    url: str
    good: int = 0
    tries: int = 0
    reason: str = "not asked yet"
    body: dict[str, Any] = field(default_factory=dict)


def judge(expect: Expectation, status: int | None, text: str) -> tuple[str, dict[str, Any]]:
    """Why an answer is not good ("" when it is), and its body; status None means there was no answer."""
    if status is None:
        return f"no answer: {text}", {}
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    known = body if isinstance(body, dict) else {}
    shown = " ".join(text.split())[:_BODY_SHOWN]
    if status != expect.status:
        return f"status {status} instead of {expect.status}: {shown}", known
    if expect.body and not isinstance(body, dict):
        return f"the answer is not JSON: {shown or 'it is empty'}", {}
    for key, wanted in expect.body.items():
        if known.get(key) != wanted:
            return f"{key} is {known.get(key)!r} instead of {wanted!r}", known
    return "", known


def wait_healthy(
    urls: list[str],
    expect: Expectation,
    successes: int,
    deadline: float,
    ask: Callable[[str], tuple[int | None, str]],
    clock: Callable[[], float],
    pause: Callable[[], None],
) -> list[Probe]:
    """Ask every address in turn until each gave ``successes`` good answers in a row or the deadline is over.

    ask: one request, returns (status or None, body or reason). clock: seconds, monotonic; deadline on its scale.
    An address is healthy when its ``good`` is at least ``successes``.
    """
    probes = [Probe(url) for url in urls]
    while True:
        waiting = [probe for probe in probes if probe.good < successes]
        for probe in waiting:
            probe.reason, probe.body = judge(expect, *ask(probe.url))
            probe.tries += 1
            probe.good = 0 if probe.reason else probe.good + 1
        waiting = [probe for probe in waiting if probe.good < successes]
        if not waiting or clock() >= deadline:
            return probes
        if any(probe.reason for probe in waiting):
            pause()
