"""The hash of a schema: what it ignores, what changes it, and what a restore may write differently."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.restore_schema import canonical, schema_digest

PLAIN = b"""--
-- PostgreSQL database dump
--

\\restrict WvBhDkTQmJhTKXMBzfPyLq

-- Dumped from database version 17.10
-- Dumped by pg_dump version 17.10

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: f(); Type: FUNCTION; Schema: public; Owner: postgres
--

CREATE FUNCTION public.f() RETURNS integer
    LANGUAGE sql
    AS $$
-- the answer
SELECT 42;
$$;


SET default_tablespace = '';

--
-- Name: t; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.t (
    id integer
);


--
-- PostgreSQL database dump complete
--

\\unrestrict WvBhDkTQmJhTKXMBzfPyLq

"""


def digest(text: bytes) -> str:
    return schema_digest(text.splitlines(keepends=True))


@pytest.mark.parametrize(
    ("found", "replacement"),
    [
        (b"restrict WvBhDkTQmJhTKXMBzfPyLq", b"restrict another"),
        (b"version 17.10", b"version 18.1"),
        (b"SET transaction_timeout = 0;\n", b""),
        (b"Owner: postgres", b"Owner: -"),
        (b"\n\n\n", b"\n\n"),
        (b"\n", b"\r\n"),
    ],
)
def test_schema_digest_ignores_what_depends_on_the_client(found, replacement):
    assert found in PLAIN
    assert digest(PLAIN.replace(found, replacement)) == digest(PLAIN)


@pytest.mark.parametrize(
    ("found", "replacement"),
    [
        (b"id integer", b"id bigint"),
        (b"SELECT 42", b"SELECT 43"),
        (b"-- the answer", b"-- an answer"),
        (b"SELECT 42;\n", b"SELECT 42;\nSET row_security = off;\n"),
        (b"default_tablespace = ''", b"default_tablespace = fast"),
        (b"CREATE TABLE public.t (\n    id integer\n);\n", b""),
    ],
)
def test_schema_digest_changes_with_the_schema(found, replacement):
    assert found in PLAIN
    assert digest(PLAIN.replace(found, replacement)) != digest(PLAIN)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "CHECK (((s)::text = ANY ((ARRAY['a'::character varying, 'it''s, (b)'::character varying(10)])::text[])))",
            "CHECK (((s)::text = ANY (ARRAY[('a'::character varying)::text, ('it''s, (b)'::character varying(10))::text])))",
        ),
        ("ANY (ARRAY['a'::character varying]::text[])", "ANY (ARRAY['a'::character varying::text])"),
        ('ANY ((ARRAY[t.a, "B c"])::text[])', 'ANY (ARRAY[(t.a)::text, ("B c")::text])'),
        ("((((n >= 1) AND (n <= 5)) AND (p > 0)))", "(((n >= 1) AND (n <= 5) AND (p > 0)))"),
        ("((((n < 1) OR (n > 5)) OR (p > 0)))", "(((n < 1) OR (n > 5) OR (p > 0)))"),
        ("(((((a) AND (b)) AND (c)) AND (d)))", "(((a) AND (b) AND (c) AND (d)))"),
        ("((((a) AND\n (b))\n  AND (c)))", "(((a) AND\n (b)\n  AND (c)))"),
        ("((((x = ')'::text) AND (b)) AND (c)))", "(((x = ')'::text) AND (b) AND (c)))"),
    ],
)
def test_what_a_restore_writes_differently_is_the_same(before, after):
    assert canonical([before.encode()]) == canonical([after.encode()])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("((((a) AND (b)) OR (c)))", "(((a) AND ((b) OR (c))))"),
        ("((((a) OR (b)) AND (c)))", "(((a) OR (b) AND (c)))"),
        ("(((a) AND ((b) AND (c))))", "(((a) AND (b) AND (c)))"),
        ("AS $$ ((a AND b) AND c) $$", "AS $$ (a AND b AND c) $$"),
        ("DEFAULT '((a AND b) AND c)'", "DEFAULT '(a AND b AND c)'"),
        ("ANY (ARRAY['a'::text])", "ANY (ARRAY['b'::text])"),
        ("ANY ((ARRAY['a'::character varying])::text[])", "ANY ((ARRAY['b'::character varying])::text[])"),
        ("ANY ((ARRAY['a'::character varying])::text[])", "ANY (ARRAY['a'::character varying])"),
    ],
)
def test_what_means_something_else_is_not_the_same(one, other):
    assert canonical([one.encode()]) != canonical([other.encode()])


def test_a_number_that_some_servers_keep_with_columns_is_no_part_of_the_schema():
    own = b"ALTER TABLE ONLY public.t ALTER COLUMN id SET (pg_attver=37374264);\n"
    both = b"ALTER TABLE ONLY public.t ALTER COLUMN id SET (n_distinct=-0.5%s);\n"
    assert schema_digest([PLAIN, own]) == schema_digest([PLAIN])
    assert schema_digest([PLAIN, both % b", pg_attver=1"]) == schema_digest([PLAIN, both % b""])
    assert schema_digest([PLAIN, both % b""]) != schema_digest([PLAIN])
