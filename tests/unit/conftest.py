"""Golden files: what a screen looked like when somebody last looked at it and found it good."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare a text of plain lines with ``golden/<name>.txt``; HABITAT_GOLDEN=write in the environment writes it."""

    def compare(name: str, text: str) -> None:
        lines = text.split("\n")
        assert [line for line in lines if line != line.rstrip() or not (line.isprintable() or not line)] == []
        assert [line for line in lines if "None" in line or "undefined" in line] == []
        path = GOLDEN / f"{name}.txt"
        if os.environ.get("HABITAT_GOLDEN") == "write":
            path.parent.mkdir(exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")
        known = path.read_text(encoding="utf-8") if path.exists() else ""
        assert text + "\n" == known, f"{path} differs; look at it, then: HABITAT_GOLDEN=write pytest tests/unit"

    return compare
