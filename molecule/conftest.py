"""What every scenario's tests look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

from stand.targets import Target, load
from stand.terminal import Terminal, scenario_folder


@pytest.fixture(scope="session")
def folder() -> Path:
    return scenario_folder()


@pytest.fixture(scope="session")
def terminal(folder: Path) -> Terminal:
    return Terminal(folder)


@pytest.fixture(scope="session")
def targets(folder: Path) -> dict[str, Target]:
    return load(folder)


@pytest.fixture(scope="session")
def target(targets: dict[str, Target]) -> Target:
    """The only one, or the first of several."""
    return next(iter(targets.values()))


@pytest.fixture(scope="session")
def node(target: Target) -> Host:
    """The target's host, as its root sees it."""
    return testinfra.get_host(f"docker://{target.node}")


@pytest.fixture(scope="session")
def before(folder: Path, target: Target) -> dict[str, Any]:
    """The target's picture as prepared."""
    return json.loads((folder / "before.json").read_text())[target.name]
