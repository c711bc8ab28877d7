"""What a request may contain. Everything raises ``Wrong`` with one sentence for the caller."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any
from uuid import UUID

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_MONEY = re.compile(r"[0-9]{1,12}(\.[0-9]{1,2})?")


class Wrong(ValueError):
    """The request cannot be right; the text says why."""


def body(raw: bytes, allowed: set[str]) -> dict[str, Any]:
    """The JSON object of a request; numbers with a point become Decimal, so that no cent is lost."""
    try:
        parsed = json.loads(raw, parse_float=Decimal)
    except (ValueError, RecursionError):
        raise Wrong("The body must be JSON.") from None
    if not isinstance(parsed, dict):
        raise Wrong("The body must be a JSON object.")
    if unknown := sorted(set(parsed) - allowed):
        raise Wrong(f"The field {unknown[0]!r} is not known here; known are {', '.join(sorted(allowed))}.")
    return parsed


def identity(value: str) -> UUID:
    try:
        return UUID(value)
    except ValueError:
        raise Wrong(f"{value[:40]!r} is not an id of a member; an id is a UUID.") from None


def text(values: dict[str, Any], name: str, longest: int) -> str:
    """A line of 1 to ``longest`` printable characters, without the blanks around it."""
    value = values.get(name)
    if not isinstance(value, str) or not value.strip():
        raise Wrong(f"{name} must be a text and must not be empty.")
    value = value.strip()
    if len(value) > longest or not value.isprintable():
        raise Wrong(f"{name} must be at most {longest} printable characters on one line.")
    return value


def email(values: dict[str, Any]) -> str:
    value = text(values, "email", 254)
    if not _EMAIL.fullmatch(value):
        raise Wrong("email must look like name@example.org.")
    return value


def amount(values: dict[str, Any]) -> Decimal:
    """Money above zero, from a JSON number or a text."""
    value = values.get("amount")
    exact = isinstance(value, (str, int, Decimal)) and not isinstance(value, bool)
    if not exact or not _MONEY.fullmatch(str(value)) or not Decimal(str(value)):
        raise Wrong('amount must be above 0, with at most 12 digits and two decimals, such as "12.50".')
    return Decimal(str(value))


def whole_number(value: str | None, name: str, default: int, largest: int) -> int:
    if value is None:
        return default
    if not re.fullmatch("[0-9]{1,9}", value) or not 1 <= int(value) <= largest:
        raise Wrong(f"{name} must be a whole number from 1 to {largest}.")
    return int(value)
