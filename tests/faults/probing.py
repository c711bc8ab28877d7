"""What a stand's clients see: whether the API answers, which writes it acknowledged, which secrets are in sight."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import time
import urllib.parse
from pathlib import Path

PROBE_SECONDS = 0.1
WRITE_SECONDS = 0.2
_SAMPLE_EVERY = 4


class Clients:
    """A prober, a writer and a sampler of argument lists, in threads, until ``stop``."""

    def __init__(self, urls: list[str], secrets: list[str]) -> None:
        self.urls = urls
        self.secrets = [secret.encode() for secret in secrets]
        self.probes: list[tuple[float, float, bool]] = []
        self.acknowledged: list[str] = []
        self.secrets_seen: set[str] = set()
        self._over = threading.Event()
        self._paused = threading.Event()
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._probe, self._write)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def begin(self) -> None:
        """Forget what was; from now on it counts."""
        self.pause(False)
        self.probes.clear()
        self.acknowledged.clear()
        self.secrets_seen.clear()

    def pause(self, on: bool = True) -> None:
        """No writes meanwhile, so that the database can be exchanged."""
        if on:
            self._paused.set()
        else:
            self._paused.clear()

    def good(self) -> bool:
        """Whether every address gives a good answer, asked now."""
        return all(_healthy(url) for url in self.urls)

    def was_good_since(self, begun: float) -> bool:
        return any(good for asked, _, good in list(self.probes) if asked >= begun)

    def outage(self, since: float) -> float:
        """Seconds since then during which the API did not answer well: from when a probe that failed was asked until
        the next good answer.
        """
        total, bad = 0.0, None
        for asked, answered, good in list(self.probes):
            if answered < since:
                continue
            if not good:
                bad = max(asked, since) if bad is None else bad
            elif bad is not None:
                total, bad = total + answered - bad, None
        return total if bad is None else total + time.monotonic() - bad

    def _probe(self) -> None:
        for count in itertools.count():
            if self._over.is_set():
                return
            asked = time.monotonic()
            good = self.good()
            self.probes.append((asked, time.monotonic(), good))
            if count % _SAMPLE_EVERY == 0:
                self._look_at_arguments()
            self._over.wait(max(0.0, asked + PROBE_SECONDS - time.monotonic()))

    def _look_at_arguments(self) -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                text = path.read_bytes()
                if any(secret in text for secret in self.secrets):
                    self.secrets_seen.add(text.replace(b"\0", b" ").decode(errors="replace"))

    def _write(self) -> None:
        for number in itertools.count():
            if self._over.wait(WRITE_SECONDS):
                return
            if self._paused.is_set():
                continue
            email = f"w{number}-{time.monotonic_ns()}@example.org"
            body = json.dumps({"email": email, "display_name": "writer"})
            url = self.urls[number % len(self.urls)].replace("/health", "/members")
            if _ask("POST", url, body)[0] == 201:
                self.acknowledged.append(email)


def _healthy(url: str) -> bool:
    status, text = _ask("GET", url)
    try:
        return status == 200 and json.loads(text)["status"] == "ok"
    except (ValueError, KeyError):
        return False


def _ask(verb: str, url: str, body: str | None = None) -> tuple[int, bytes]:
    """Status and body; 0 when there was no answer."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=3)
    try:
        connection.request(verb, parts.path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
