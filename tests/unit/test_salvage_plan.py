"""What can be brought back, in which order, by which statements."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import salvage_plan as plan
from ansible_collections.habitat.runbook.plugins.module_utils import salvage_statements as statements
from hypothesis import given
from hypothesis import strategies as st

EQUAL = "OPERATOR(pg_catalog.=)"
ID = plan.Unique(("id",), (EQUAL,), primary=True)


def shape(
    name: str, *columns: str, uniques: tuple[plan.Unique, ...] = (ID,), parts: tuple[str, ...] = ()
) -> plan.Shape:
    types = tuple(plan.Column(column, "integer") for column in columns or ("id",))
    return plan.Shape(name, ("s", name), f'ONLY "s"."{name}"', (name, *parts), types, uniques)


def refers(child: str, parent: str, column: str = "up", **more: Any) -> plan.ForeignKey:
    sql = {"child_sql": f'ONLY "s"."{child}"', "parent_sql": f'ONLY "s"."{parent}"'}
    return plan.ForeignKey(f"{child}_{parent}", child, parent, (column,), ("id",), (EQUAL,), **{**sql, **more})


def ordered(names: str, *keys: plan.ForeignKey, **more: bool) -> plan.Order:
    return plan.make_order([shape(name) for name in names], keys, **more)


def test_parents_come_first():
    assert ordered("abc", refers("a", "b"), refers("b", "c")).tables == ("c", "b", "a")
    assert ordered("cab").tables == ("a", "b", "c")


def test_partitions_stand_where_their_table_stands():
    shapes = [shape("child"), shape("p1", parts=("p",)), shape("p2", parts=("p",)), shape("z")]
    order = plan.make_order(shapes, [refers("child", "p"), refers("p", "z")])
    assert order.tables == ("z", "p1", "p2", "child")


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=12))
def test_whoever_is_no_part_of_a_cycle_comes_after_its_parents(pairs):
    keys = [refers(child, parent) for child, parent in pairs]
    order = ordered("abcdef", *keys)
    assert sorted(order.tables) == list("abcdef")
    for one in order.guarded:
        assert one.child == one.parent or order.tables.index(one.parent) < order.tables.index(one.child)
    assert len(order.guarded) + len(order.deferred) == len(keys)
    assert set(order.loosened) <= set(order.deferred)


def test_only_foreign_keys_of_a_cycle_wait_for_the_end():
    loop = [refers("a", "b"), refers("b", "a", deferrable=True), refers("c", "a")]
    order = ordered("abc", *loop)
    assert (order.deferred, order.loosened, order.guarded) == (tuple(loop[:2]), (loop[0],), (loop[2],))


def test_a_table_that_refers_to_itself_is_ordered_by_its_rows_as_long_as_that_works():
    own = refers("a", "a")
    assert ordered("a", own).guarded == (own,)
    assert ordered("a", own, defer_own=True).loosened == (own,)
    able = refers("a", "a", deferrable=True)
    assert (ordered("a", able).deferred, ordered("a", able).loosened) == ((able,), ())


def test_foreign_keys_of_tables_that_did_not_change_are_guarded_or_of_no_concern():
    here, there, away = refers("a", "x"), refers("x", "a"), refers("x", "y")
    assert ordered("a", here, there, away).guarded == (here, there)


def test_what_is_on_one_side_only_is_told_and_the_ledger_is_nobodys_concern():
    kept = {name: shape(name, "id", "new") for name in ("both", "later", "public.schema_migrations_history")}
    base = {name: shape(name, "id", "gone") for name in ("both", "former", "public.schema_migrations")}
    found = plan.make_plan(kept, base)
    assert (list(found.common), found.only_kept, found.only_base) == (
        ["both"],
        {"later": 'ONLY "s"."later"'},
        ["former"],
    )
    told = plan.as_report(found, {"later": {"kept": 3}})
    assert [(one["table"], one["what"], one["kept"], one["columns"]) for one in told] == [
        ("later", "only_kept", 3, []),
        ("former", "only_base", None, []),
        ("both", "new_columns", None, ["new"]),
        ("both", "missing_columns", None, ["gone"]),
    ]


def test_columns_that_are_computed_are_left_out():
    computed = plan.Shape(
        "t", ("s", "t"), "t", ("t",), (plan.Column("id", "int"), plan.Column("sum", "int", True)), (ID,)
    )
    assert [column.name for column in plan.make_plan({"t": computed}, {"t": computed}).common["t"].columns] == ["id"]


@pytest.mark.parametrize(
    ("kept", "base", "columns"),
    [
        ([ID], [ID], ("id",)),
        ([], [ID], None),
        ([ID], [], None),
        ([plan.Unique(("a", "id"), (EQUAL,) * 2)], [plan.Unique(("id", "a"), (EQUAL,) * 2)], ("id", "a")),
        ([plan.Unique(("a",), (EQUAL,), key=False)], [plan.Unique(("a",), (EQUAL,))], None),
        ([plan.Unique(("a",), (EQUAL,)), ID], [plan.Unique(("a",), (EQUAL,)), ID], ("id",)),
    ],
)
def test_the_key_names_one_row_in_both(kept, base, columns):
    one, other = (shape("t", "id", "a", uniques=tuple(uniques)) for uniques in (kept, base))
    key = plan.make_plan({"t": one}, {"t": other}).common["t"].key
    assert (key and key.columns) == columns


def writer(order: plan.Order | None = None, uniques: tuple[plan.Unique, ...] = (ID,)) -> statements.Writer:
    one = shape("t", "id", "up", uniques=uniques)
    common = plan.make_plan({"t": one}, {"t": one}).common["t"]
    return statements.Writer(common, order or ordered("t"))


NEW, OLD = {"id": b"'1'", "up": b"'5'"}, {"id": b"'1'", "up": b"NULL"}
STILL = b" AND encode(sha256(convert_to(ROW(x.\"id\", x.\"up\")::text, 'UTF8')), 'hex') = 'ab'"
IS = b"x.\"id\" OPERATOR(pg_catalog.=) '1'::integer"


def test_statements():
    into, table = b'INSERT INTO "s"."t" ("id", "up") OVERRIDING SYSTEM VALUE ', b'ONLY "s"."t" AS x'
    assert writer().insert(NEW) == into + b"VALUES ('1'::integer, '5'::integer) ON CONFLICT DO NOTHING;"
    assert (
        writer().update(NEW, OLD, b"ab")
        == b"UPDATE " + table + b" SET \"up\" = '5'::integer WHERE " + IS + STILL + b";"
    )
    assert writer().delete(OLD, b"ab") == b"DELETE FROM " + table + b" WHERE " + IS + STILL + b";"
    assert writer().gone(OLD) == b"SELECT WHERE NOT EXISTS (SELECT FROM " + table + b" WHERE " + IS + b")"


def test_a_row_waits_for_its_parent_and_goes_after_its_children():
    order = ordered("t", refers("t", "p"), refers("c", "t"))
    parent = b'EXISTS (SELECT FROM ONLY "s"."p" AS p WHERE p."id" OPERATOR(pg_catalog.=) \'5\'::integer)'
    assert b" WHERE " + parent + b" ON CONFLICT" in writer(order).insert(NEW)
    assert b"EXISTS" not in writer(order).insert(OLD)
    assert parent in writer(order).update(NEW, OLD, b"ab")
    child = b'NOT EXISTS (SELECT FROM ONLY "s"."c" AS c WHERE x."id" OPERATOR(pg_catalog.=) c."up")'
    assert writer(order).delete(OLD, b"ab").endswith(b" AND " + child + b";")


def test_a_row_that_refers_to_itself_waits_for_nobody():
    itself = {"id": b"'5'", "up": b"'5'"}
    assert b"EXISTS" not in writer(ordered("t", refers("t", "t"))).insert(itself)


def test_a_value_that_may_be_there_once_is_looked_for():
    once = plan.Unique(("up",), (EQUAL,), key=False)
    update = writer(uniques=(ID, once)).update(NEW, OLD, b"ab")
    assert (
        b'NOT EXISTS (SELECT FROM ONLY "s"."t" AS c WHERE c."up" OPERATOR(pg_catalog.=) \'5\'::integer AND NOT'
        in update
    )
    assert b"NOT EXISTS" not in writer(uniques=(ID, once)).update(OLD, NEW, b"ab")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
def test_names_and_texts_are_one_line_and_end_no_block(text):
    for made in (statements.name_sql(text), statements.text_sql(text)):
        assert made.isprintable()
        assert "$" not in made


@given(st.binary().filter(lambda raw: b"'" not in raw))
def test_literals_of_many_lines_become_one(raw):
    literal = b"'%s'" % raw if b"\\" not in raw else b"E'%s'" % raw.replace(b"\\", b"\\\\")
    line = statements.one_line(literal)
    assert not {b"\n", b"\r"}.intersection(line[i : i + 1] for i in range(len(line)))
    assert line == literal or line.startswith(b"E'")


def test_sequences_only_go_on():
    assert statements.forward('"s"."q"', 7, True).endswith(b"WHERE last_value < 7 OR last_value = 7 AND NOT is_called;")
    assert b"last_value > -7" in statements.forward('"s"."q"', -7, False)
