"""Waiting for what has to come sooner or later: how soon is not what a test is about, and the machine may be busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], seconds: float = 120, every: float = 0.02) -> Any:
    """What the condition gives as soon as that is true; AssertionError when it never is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain"
        time.sleep(every)
    return found
