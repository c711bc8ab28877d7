# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Ask the application ten times a second whether it is well, and keep every answer in a file of the run."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils import run_folder
from ansible_collections.habitat.runbook.plugins.module_utils.health import Expectation, judge

INTERVAL_SECONDS = 0.1
_TIMEOUT_SECONDS = 2.0
_BODY_BYTES = 64 * 1024


class Prober:
    """Probes addresses in a thread until ``stop``; ``good`` is the last round's answer, None before the first one."""

    def __init__(self, folder: Path, urls: list[str], body: dict[str, Any]) -> None:
        self.good: bool | None = None
        self._path = folder / run_folder.PROBES
        self._urls = urls
        self._expect = Expectation(200, body)
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._probe, daemon=True)
        if urls:
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        if self._urls:
            self._thread.join(_TIMEOUT_SECONDS * len(self._urls))

    def _probe(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with os.fdopen(os.open(self._path, flags, 0o600), "a", buffering=1) as file:
            while not self._over.is_set():
                begun = time.monotonic()
                whys = [self._ask(url) for url in self._urls]
                good, why = not any(whys), next(filter(None, whys), "")
                line = {"mono": round(begun, 3), "good": good, "ms": round((time.monotonic() - begun) * 1000)}
                try:
                    file.write(json.dumps({**line, **({"why": why[:80]} if why else {})}) + "\n")
                except OSError:
                    # The disk is full, or the folder is gone: the guard itself must go on.
                    return
                self.good = good
                self._over.wait(max(0.0, INTERVAL_SECONDS - (time.monotonic() - begun)))

    def _ask(self, url: str) -> str:
        """Why the answer is not good; empty when it is."""
        try:
            try:
                answer = self._open(url, timeout=_TIMEOUT_SECONDS)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                return judge(self._expect, answer.status, answer.read(_BODY_BYTES).decode(errors="replace"))[0]
        except Exception as error:  # whatever went wrong is what the probe has found
            return f"no answer: {getattr(error, 'reason', error)}"


def read_probes(folder: Path) -> list[dict[str, Any]]:
    """The answers so far, oldest first, without what was cut off."""
    found = []
    try:
        for line in (folder / run_folder.PROBES).read_bytes().splitlines():
            if line.endswith(b"}"):
                found.append(json.loads(line))
    except (OSError, ValueError):
        return found
    return found
