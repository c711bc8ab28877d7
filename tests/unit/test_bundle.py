"""The file that carries migrations to the database's host."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.bundle import BundleError, read_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.bundle_writer import write_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.migration_file import Down, Migration
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30)
STATEMENTS = st.lists(
    st.builds(Statement, TEXT, st.integers(1, 2**31), st.integers(1, 2**31), st.none() | TEXT), max_size=4
).map(tuple)
MIGRATIONS = st.lists(
    st.builds(
        Migration,
        version=st.from_regex(r"[0-9]{1,14}", fullmatch=True),
        name=TEXT,
        file=TEXT,
        checksum=st.just("0" * 64),
        mode=st.sampled_from(["transaction", "steps", "as_written"]),
        begin=TEXT,
        up=STATEMENTS,
        verify=STATEMENTS,
        down=st.builds(Down, TEXT, TEXT, TEXT),
        lock_timeout=st.none() | TEXT,
        statement_timeout=st.none() | TEXT,
        warnings=st.lists(TEXT, max_size=2).map(tuple),
    ),
    max_size=4,
)


def example(count: int = 2, size: int = 10) -> Migration:
    up = tuple(Statement(f"INSERT {number} " + "x" * size, number, 1) for number in range(1, count + 1))
    return Migration(
        "07", "x", "schema/07_x.sql", "0" * 64, "transaction", "BEGIN", up, (), Down("none", "", ""), "5s", None, ()
    )


def rebuilt(head: dict, statements: list[tuple[str, Statement]]) -> Migration:
    counts = head.pop("statements"), head.pop("verifications")
    up = tuple(statement for kind, statement in statements if kind == "up")
    verify = tuple(statement for kind, statement in statements if kind == "verify")
    assert counts == (len(up), len(verify))
    return Migration(
        **{**head, "down": Down(**head["down"]), "warnings": tuple(head["warnings"])}, up=up, verify=verify
    )


@given(migrations=MIGRATIONS)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, migrations: list[Migration]) -> None:
    path = tmp_path_factory.getbasetemp() / "bundle"
    write_bundle(path, migrations)
    assert [rebuilt(head, list(stream())) for head, stream in read_bundle(path)] == migrations


def test_a_stream_may_be_read_later_and_again(tmp_path: Path) -> None:
    migrations = [example(2), example(3)]
    write_bundle(tmp_path / "bundle", migrations)
    read = list(read_bundle(tmp_path / "bundle"))
    for _ in range(2):
        assert [[statement for _, statement in stream()] for _, stream in reversed(read)] == [
            list(migration.up) for migration in reversed(migrations)
        ]


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", [])
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o600


def test_memory_is_flat(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", [example(2000, 10_000), example(1)])
    assert (tmp_path / "bundle").stat().st_size > 20_000_000
    tracemalloc.start()
    total = sum(len(statement.text) for _, stream in read_bundle(tmp_path / "bundle") for _, statement in stream())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total > 20_000_000
    assert peak < 1_000_000


def test_skipped_statements_are_not_read(tmp_path: Path) -> None:
    """What is skipped may even be damaged."""
    path = tmp_path / "bundle"
    write_bundle(path, [example(100), example(1)])
    content = path.read_bytes()
    start = content.index(b"INSERT 50")
    path.write_bytes(content[:start] + b"\xff" * 5 + content[start + 5 :])
    assert [head["statements"] for head, _ in read_bundle(path)] == [100, 1]


@pytest.mark.parametrize("cut", [1, 10, 30, 200])
def test_a_cut_bundle_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "bundle"
    write_bundle(path, [example(3)])
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(BundleError, match="bundle is damaged or cut short; make it again"):
        for _, stream in read_bundle(path):
            list(stream())
    with pytest.raises(BundleError, match="bundle is damaged or cut short; make it again"):
        list(read_bundle(path))


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_text("SELECT 1;\n")
    with pytest.raises(BundleError, match="bundle is not a bundle of migrations of this version; make it again"):
        next(read_bundle(tmp_path / "bundle"))
