"""The HTTP side: routes, and errors as one JSON sentence.

Who may call is decided in front of this program; it trusts the member's id in the path.
"""

from __future__ import annotations

import datetime
import json
import sys
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from bottle import Bottle, HTTPError, HTTPResponse, request, response

from demo.api import fields, store
from demo.api.health import Health, one_line
from demo.database import Database

_SENTENCES = {404: "There is nothing at this address.", 405: "This address does not take that method."}


class Api(Bottle):
    """A Bottle whose own error pages are JSON, too."""

    def default_error_handler(self, res: HTTPError) -> str:
        response.content_type = "application/json"
        return json.dumps({"error": _SENTENCES.get(res.status_code, "The request could not be handled.")})


def build(database: Database, health: Health) -> Api:
    """The WSGI application."""
    app = Api()
    app.install(_answer)

    @app.get("/api/health")
    def get_health() -> HTTPResponse:
        status, body = health.report()
        return _json(body, status)

    @app.get("/api/members")
    def list_members() -> Any:
        limit = fields.whole_number(request.query.get("limit"), "limit", 50, 200)
        after = request.query.get("after")
        with database.session() as connection:
            return {"members": store.list_members(connection, limit, fields.identity(after) if after else store.FIRST)}

    @app.post("/api/members")
    def add_member() -> HTTPResponse:
        given = fields.body(request.body.read(), {"email", "display_name"})
        email, display_name = fields.email(given), fields.text(given, "display_name", 100)
        with database.session() as connection:
            return _json(store.add_member(connection, email, display_name), 201)

    @app.get("/api/members/<member>")
    def get_member(member: str) -> Any:
        with database.session() as connection:
            return _found(store.get_member(connection, fields.identity(member)))

    @app.get("/api/members/<member>/contributions")
    def list_contributions(member: str) -> Any:
        limit = fields.whole_number(request.query.get("limit"), "limit", 50, 200)
        with database.session() as connection:
            return {"contributions": _found(store.list_contributions(connection, fields.identity(member), limit))}

    @app.post("/api/members/<member>/contributions")
    def add_contribution(member: str) -> HTTPResponse:
        given = fields.body(request.body.read(), {"amount", "note"})
        note = None if given.get("note") is None else fields.text(given, "note", 500)
        amount = fields.amount(given)
        with database.session() as connection:
            return _json(_found(store.add_contribution(connection, fields.identity(member), amount, note)), 201)

    return app


def _json(body: Any, status: int) -> HTTPResponse:
    return HTTPResponse(json.dumps(body, default=_plain), status, {"Content-Type": "application/json"})


def _plain(value: Any) -> str:
    """Money stays exact as text, times are ISO 8601 with their zone."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


def _found(result: Any) -> Any:
    if result is None:
        raise _json({"error": "There is no such member."}, 404)
    return result


def _answer(callback: Any) -> Any:
    """Bottle plugin: results as JSON, and what the checks and the database raise as status and sentence."""

    def answer(*arguments: Any, **named: Any) -> HTTPResponse:
        try:
            result = callback(*arguments, **named)
        except fields.Wrong as error:
            return _json({"error": str(error)}, 400)
        except psycopg.Error as error:
            status, sentence = _explain(error)
            if status >= 500:
                print(f"{request.method} {request.path}: {one_line(error)}", file=sys.stderr, flush=True)
            return _json({"error": sentence}, status)
        return result if isinstance(result, HTTPResponse) else _json(result, 200)

    return answer


def _explain(error: psycopg.Error) -> tuple[int, str]:
    if isinstance(error, psycopg.errors.UniqueViolation):
        taken = error.diag.constraint_name == "members_email_key"
        return 409, "A member with this email exists." if taken else "Somebody else was faster; try again."
    if isinstance(error, (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege)):
        return 503, "The database's schema does not offer this yet."
    if isinstance(error, psycopg.OperationalError):
        return 503, "The database does not answer; try again in a moment."
    return 503, "The database could not do this; the log says why."
