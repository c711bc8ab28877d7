"""A folder of migrations: which files count, in which order, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.schema_folder import SchemaFolder, read_schema

DOWN = "SELECT 1;\n-- Down migration\nSELECT 2;\n"
GOOD_NAME = (
    "a migration is called like 07_email_verifications.sql: a number, an underscore, a name of letters, digits, "
    "_ and -, then .sql (its down may be a file 07_email_verifications.down.sql)"
)


def read(folder: Path, *names: str, **contents: str) -> SchemaFolder:
    """Make ``schema/`` with the files (names with their default content) and read it."""
    schema = folder / "schema"
    schema.mkdir(exist_ok=True)
    for name in names:
        (schema / name).write_text(DOWN)
    for name, content in contents.items():
        (schema / f"{name.replace('__', '.')}.sql").write_text(content)
    return read_schema(schema)


def problems(found: SchemaFolder) -> list[str]:
    return [str(problem) for problem in found.problems]


def warnings(found: SchemaFolder) -> list[str]:
    return [str(warning) for warning in found.warnings]


def test_versions_are_text_and_ordered_as_numbers(tmp_path: Path) -> None:
    found = read(tmp_path, "10_ten.sql", "9_nine.sql", "0008_eight.sql", "11_a-b_Größe.sql")
    assert [(one.version, one.name, one.file) for one in found.migrations] == [
        ("0008", "eight", "schema/0008_eight.sql"),
        ("9", "nine", "schema/9_nine.sql"),
        ("10", "ten", "schema/10_ten.sql"),
        ("11", "a-b_Größe", "schema/11_a-b_Größe.sql"),
    ]
    assert (found.problems, found.warnings) == ((), ())


def test_the_folder_may_be_given_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(tmp_path, "1_a.sql")
    monkeypatch.chdir(tmp_path / "schema")
    assert read_schema(".") == read_schema(str(tmp_path / "schema")) == found


@pytest.mark.parametrize(
    "name", ["x.sql", "07-x.sql", "V1__x.sql", "07.sql", "07_.sql", "07_x y.sql", "07_x.up.sql", "07_X.SQL", "٣_x.sql"]
)
def test_misnamed_files_are_refused(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, "01_a.sql", name)
    assert problems(found) == [f"schema/{name}: not a migration's name; {GOOD_NAME}"]
    assert [one.version for one in found.migrations] == ["01"]


@pytest.mark.parametrize(
    "name", ["07_x.sql.bak", "07_x.sql~", "07_x.sql.orig", "07_x.SQL.old", "07_x.sql#", "#07_x.sql#"]
)
def test_left_overs_are_a_warning(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, "01_a.sql", name)
    assert warnings(found) == [f"schema/{name}: looks like a copy of a migration and is ignored"]
    assert found.problems == ()


def test_other_files_and_folders_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "schema" / "02_folder.sql").mkdir(parents=True)
    (tmp_path / "schema" / "old").mkdir()
    (tmp_path / "schema" / "old" / "01_b.sql").write_text("")
    found = read(tmp_path, "01_a.sql", "README.md", ".01_a.sql.swp", ".hidden.sql", "01_a.sqlx", "notes")
    assert [one.version for one in found.migrations] == ["01"]
    assert (found.problems, found.warnings) == ((), ())


def test_the_same_number_twice_is_refused(tmp_path: Path) -> None:
    found = read(tmp_path, "3_a.sql", "03_b.sql", "4_c.sql")
    assert problems(found) == ["schema/3_a.sql: has the same number as schema/03_b.sql; renumber one of the two"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["01_a.sql", "02_b.sql", "04_c.sql"], ["schema/04_c.sql: 03 is missing"]),
        (["8_a.sql", "12_b.sql"], ["schema/12_b.sql: 09 to 11 are missing"]),
        (["1_a.sql", "101_b.sql"], ["schema/101_b.sql: 002 to 100 are missing"]),
        (["1_a.sql", "102_b.sql"], []),
        (["20260101120000_a.sql", "20260101130000_b.sql"], []),
        (["05_a.sql", "06_b.sql"], []),
    ],
)
def test_a_hole_in_a_series_is_a_warning(tmp_path: Path, names: list[str], expected: list[str]) -> None:
    found = read(tmp_path, *names)
    assert warnings(found) == [f"{text} before it; check that no file was forgotten" for text in expected]
    assert found.problems == ()


def test_a_down_file_belongs_to_its_migration(tmp_path: Path) -> None:
    found = read(tmp_path, **{"07_x": "SELECT 1;", "07_x__down": "-- DROP TABLE x;\n"})
    assert [one.down.sql for one in found.migrations] == ["DROP TABLE x;"]
    assert (found.problems, found.warnings, found.migrations[0].warnings) == ((), (), ())


def test_a_down_file_alone_is_refused(tmp_path: Path) -> None:
    found = read(tmp_path, "07_x.sql", "7_x.down.sql", "08_y.down.sql")
    assert problems(found) == [
        "schema/08_y.down.sql: belongs to 08_y.sql, which is not there; add or rename it",
        "schema/7_x.down.sql: belongs to 7_x.sql, which is not there; add or rename it",
    ]


def test_a_down_file_and_a_down_section_are_refused(tmp_path: Path) -> None:
    found = read(tmp_path, **{"07_x": DOWN, "07_x__down": "SELECT 2;"})
    assert problems(found) == [
        "schema/07_x.sql:2: the file has a down section and a .down.sql file beside it; keep one of the two"
    ]


def test_problems_in_files_are_told_of_all_files(tmp_path: Path) -> None:
    found = read(tmp_path, **{"01_a": "SELECT '", "02_b": DOWN, "03_c": "\nCOMMIT;"})
    assert [problem.split(" ")[0] for problem in problems(found)] == ["schema/01_a.sql:1:", "schema/03_c.sql:2:"]
    assert [one.version for one in found.migrations] == ["02"]


def test_symlinks_are_files(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(DOWN)
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "01_a.sql").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "schema")
    assert [one.file for one in read_schema(tmp_path / "link").migrations] == ["schema/01_a.sql"]


def test_a_dangling_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "01_a.sql").symlink_to(tmp_path / "nothing")
    assert problems(read(tmp_path)) == [
        "schema/01_a.sql: cannot be read (No such file or directory); correct that or remove the file"
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    read(tmp_path, "01_a.sql")
    (tmp_path / "schema" / "01_a.sql").chmod(0)
    assert problems(read(tmp_path)) == [
        "schema/01_a.sql: cannot be read (Permission denied); correct that or remove the file"
    ]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    assert problems(read_schema(missing)) == [
        f"{missing}: cannot read the folder of the migrations (No such file or directory); create it, or correct its path"
    ]


def test_no_migrations_are_refused(tmp_path: Path) -> None:
    assert problems(read(tmp_path, "README.md")) == [f"schema: no migrations in this folder; {GOOD_NAME}"]
