"""Catalogs compared: fingerprints, digests, what changed, and whether a down migration took it back."""

from __future__ import annotations

import hashlib

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.catalog import (
    ORDER,
    changes,
    digests,
    fingerprint,
    undone,
)
from hypothesis import given
from hypothesis import strategies as st

IDENTITIES = st.sampled_from(
    [
        f"{ORDER}public.a",
        f"{ORDER}public.b",
        "table public.a",
        "column public.a.x",
        "column public.b.x",
        "index public.i",
    ]
)
CATALOGS = st.dictionaries(IDENTITIES, st.sampled_from(["", "one", "two"]))


@given(CATALOGS)
def test_the_fingerprint_does_not_depend_on_the_order_of_entries(catalog):
    assert fingerprint(dict(reversed(list(catalog.items())))) == fingerprint(catalog)


@given(CATALOGS, CATALOGS)
def test_the_fingerprint_is_equal_where_all_but_the_order_of_columns_is(one, other):
    alike = [{name: text for name, text in each.items() if not name.startswith(ORDER)} for each in (one, other)]
    assert (fingerprint(one) == fingerprint(other)) == (alike[0] == alike[1])


def test_names_and_definitions_cannot_be_taken_for_one_another():
    assert fingerprint({"a": "bc"}) != fingerprint({"ab": "c"})
    assert fingerprint({"a": "b", "c": "d"}) != fingerprint({"a": "bcd"})
    assert fingerprint({}) == hashlib.sha256(b"").hexdigest()


def test_digests_are_short_hashes_of_the_definitions():
    assert digests({"table public.a": "x"}) == {"table public.a": hashlib.sha256(b"x").hexdigest()[:16]}
    assert digests({"a": "\udce9"}) == {"a": hashlib.sha256(b"\xe9").hexdigest()[:16]}


@given(CATALOGS, CATALOGS)
def test_changes_lead_from_one_to_the_other(before, after):
    changed = changes(before, after)
    assert all(was != now for was, now in changed.values())
    made = {**before, **{name: now for name, (_, now) in changed.items()}}
    assert {name: text for name, text in made.items() if text is not None} == after


@given(CATALOGS, CATALOGS)
def test_a_migration_whose_schema_is_as_before_is_undone(before, after):
    assert undone(changes(before, after), after, before) == ([], [])


@given(CATALOGS, CATALOGS, CATALOGS)
def test_whatever_differs_is_told(before, between, after):
    matters, orders = undone(changes(before, between), between, after)
    assert bool(matters or orders) == (before != after)
    if {name: text for name, text in before.items() if not name.startswith(ORDER)} == {
        name: text for name, text in after.items() if not name.startswith(ORDER)
    }:
        assert matters == []


@pytest.mark.parametrize(
    ("before", "between", "after", "matters", "orders"),
    [
        ({}, {"table t": "1"}, {"table t": "1"}, ["table t is still there"], []),
        ({}, {"table t": "1"}, {"table t": "2"}, ["table t is still there"], []),
        ({"index i": "1"}, {}, {}, ["index i is missing"], []),
        ({"index i": "1"}, {"index i": "2"}, {}, ["index i is missing"], []),
        (
            {"function f()": "1"},
            {"function f()": "2"},
            {"function f()": "3"},
            ["function f() is not what it was before"],
            [],
        ),
        (
            {"function f()": "1"},
            {"function f()": "2"},
            {"function f()": "2"},
            ["function f() is not what it was before"],
            [],
        ),
        ({"view v": "1"}, {"view v": "1"}, {"view v": "2"}, ["view v was changed by the down migration as well"], []),
        ({"view v": "1"}, {"view v": "1"}, {}, ["view v was dropped by the down migration as well"], []),
        ({}, {}, {"view v": "1"}, ["view v was made by the down migration"], []),
        (
            {f"{ORDER}public.t": "a, b"},
            {f"{ORDER}public.t": "b"},
            {f"{ORDER}public.t": "b, a"},
            [],
            ["columns of public.t come in another order than before"],
        ),
        (
            {f"{ORDER}public.t": "a, b"},
            {f"{ORDER}public.t": "a, b"},
            {f"{ORDER}public.t": "b, a"},
            [],
            ["columns of public.t come in another order than before"],
        ),
    ],
)
def test_what_is_told(before, between, after, matters, orders):
    assert undone(changes(before, between), between, after) == (matters, orders)


def test_a_table_speaks_for_its_columns_and_comes_first():
    odd = 'public."a.b"'
    made = {
        f"column {odd}.x": "1",
        f'column {odd}."y ""z."': "1",
        f"{ORDER}{odd}": "x",
        f"constraint c on {odd}": "1",
        f"table {odd}": "1",
        'column public."a".x': "1",
    }
    assert undone(changes({}, made), made, made) == (
        [
            f"table {odd} is still there",
            'column public."a".x is still there',
            f"constraint c on {odd} is still there",
        ],
        [],
    )


def test_the_order_of_columns_says_nothing_where_one_is_missing():
    before = {"column public.t.a": "1", "column public.t.b": "1", f"{ORDER}public.t": "a, b"}
    after = {"column public.t.b": "2", f"{ORDER}public.t": "b"}
    assert undone({}, before, after) == (
        [
            "column public.t.a was dropped by the down migration as well",
            "column public.t.b was changed by the down migration as well",
        ],
        [],
    )
