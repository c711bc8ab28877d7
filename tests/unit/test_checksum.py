"""What changes a migration's checksum."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.reading import DOWN, good


def checksum(content: str) -> str:
    return good(content).checksum


BASE = "CREATE TABLE x (a int, b text DEFAULT 'c  d');\nSELECT 'a'\n 'b';\nCOPY x FROM stdin;\n1\t2\n\\.\n"


@pytest.mark.parametrize(
    "same",
    [
        BASE.replace("\n", "\r\n"),
        "\ufeff" + BASE,
        "-- why\n/* and; how */\n" + BASE,
        BASE.replace("a int", "a  -- the a\n\tint"),
        BASE.replace("a int", "a/**/int"),
        BASE.replace("d');\n", "d') ;;\n\n  ;\n"),
        BASE.replace("'a'\n", "'a'   \n\n -- and\n"),
        "-- Migration\n-- Up migration\n" + BASE,
        BASE + DOWN,
        BASE + "-- Verify\nSELECT 1;\n",
        "-- migrate: lock_timeout=5s statement_timeout=0 transaction=true irreversible=gone\n" + BASE,
    ],
)
def test_checksum_ignores_what_cannot_change_meaning(same: str) -> None:
    assert checksum(same) == checksum(BASE)
    assert re.fullmatch("[0-9a-f]{64}", checksum(BASE))


@pytest.mark.parametrize(
    "other",
    [
        BASE.replace("a int", "a_int"),
        BASE.replace("a int", "A int"),
        BASE.replace("'c  d'", "'c d'"),
        BASE.replace("1\t2", "1\t 2"),
        BASE.replace("1\t2\n", "1\t2\n\n"),
        BASE.replace("'a'\n 'b'", "'a' 'b'"),
        BASE + "SELECT 1;",
        BASE.replace("text", "; text"),
        "-- migrate: transaction=false\n" + BASE,
        "",
    ],
)
def test_checksum_changes_with_anything_that_can(other: str) -> None:
    assert checksum(other) != checksum(BASE)


def test_checksum_under_standard_conforming_strings_off() -> None:
    sql = "SET standard_conforming_strings = off;\nSELECT 'a\\'  --b';"
    assert checksum(sql) != checksum(sql.replace("  ", " "))


TOKENS = st.lists(
    st.sampled_from(
        ["a", "B", "1", "'x y'", '"n  m"', "$$ d\n-- e\n$$", "E'\\'  '", "(", ")", ",", "+", "*", "'it''s'", ";"]
    ),
    max_size=12,
)
BLANK = st.lists(
    st.sampled_from([" ", "  ", "\t", "\n", "\r\n", " \n\n", "-- c'\n", "--\r\n", "/* d; */", "/*\n*/"]),
    min_size=1,
    max_size=3,
).map("".join)


def balanced(tokens: list[str]) -> list[str]:
    return [token for token in tokens if token not in "()"]


@given(tokens=TOKENS.map(balanced), data=st.data())
def test_noise_never_changes_the_checksum(tokens: list[str], data: st.DataObject) -> None:
    """Strings side by side are kept apart: a newline between them does change the meaning."""
    tokens = [token for pair in zip(tokens, ["."] * len(tokens), strict=True) for token in pair]
    noisy = "".join(data.draw(BLANK) + token for token in ["select", *tokens]) + data.draw(BLANK)
    assert checksum(noisy) == checksum(" ".join(["select", *tokens]))


@given(tokens=TOKENS.map(balanced), data=st.data())
def test_another_token_always_changes_the_checksum(tokens: list[str], data: st.DataObject) -> None:
    tokens = [token for token in tokens if token != ";"]
    place = data.draw(st.integers(0, len(tokens)))
    added = data.draw(st.sampled_from(["z", "2", "''", "$$$$", '"q"', "*"]))
    changed = [*tokens[:place], added, *tokens[place:]]
    assert checksum(" ".join(["select", *changed])) != checksum(" ".join(["select", *tokens]))
