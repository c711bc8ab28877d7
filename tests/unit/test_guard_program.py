"""The guard as one file: everything that it needs is in it, and nothing of Ansible."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import guard_program

NAMESPACE = "ansible_collections.habitat.runbook.plugins.module_utils."
# Says which modules are loaded from where after every part has been imported.
IMPORT_ALL = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module(name)
print(json.dumps({name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}))
"""
ALLOWED = {*sys.stdlib_module_names, "psycopg"}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return guard_program.write(folder)


def isolated(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python that knows neither the working folder nor PYTHONPATH; what is installed is still there."""
    command = [sys.executable, "-I", *arguments]
    return subprocess.run(command, cwd="/", text=True, capture_output=True, timeout=60, check=False)


def imported(path: Path) -> set[str]:
    """Everything that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == NAMESPACE[:-1] else {str(node.module)}
    return found


def test_every_part_is_there_and_comes_from_the_file(program):
    names = [part.__name__ for part in guard_program.PARTS]
    assert zipfile.ZipFile(program).testzip() is None
    done = isolated("-c", IMPORT_ALL, str(program), *names)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    ours = {name: path for name, path in loaded.items() if name.startswith("ansible_collections")}
    assert set(names) <= set(ours)
    assert [path for path in ours.values() if not path.startswith(str(program))] == []
    assert [name for name in loaded if name == "ansible" or name.startswith("ansible.")] == []


def test_the_parts_import_one_another_the_standard_library_and_psycopg_only():
    names = {part.__name__ for part in guard_program.PARTS}
    for part in guard_program.PARTS:
        for name in imported(Path(str(part.__file__))):
            assert name in names or name.split(".")[0] in ALLOWED, f"{part.__name__} imports {name}"


def test_it_runs_by_itself_from_anywhere(program):
    done = isolated(str(program), "boot")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), "a folder without a run needs nothing"


def test_it_says_why_it_cannot_watch(program):
    done = isolated(str(program), "watch", str(program.parent))
    assert done.returncode != 0
    assert done.stdout == ""


def test_the_file_is_private(program):
    assert program.stat().st_mode & 0o077 == 0
