# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What kind of command a statement is: does it control transactions, can it run inside of one."""

from __future__ import annotations

import re
from itertools import islice

from ansible_collections.habitat.runbook.plugins.module_utils.canonical import tokens
from ansible_collections.habitat.runbook.plugins.module_utils.lexis import CONT
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement

_FIRST_WORD = re.compile(rf"[A-Za-z]*(?!{CONT})")
_NAME = r'(?:(?:u&)?"(?:[^"]|"")*"|[^ "]+)'
_NAMES = rf"{_NAME}(?:\ \.\ {_NAME})*"
_NO_TRANSACTION = re.compile(
    rf"""create\ (?:unique\ )?index\ concurrently\b
    | drop\ index\ concurrently\b
    | reindex\ (?:\([^()]*\)\ )?(?:database|schema|system)\b
    | reindex\ (?:\([^()]*\)\ )?(?:index|table)\ concurrently\b
    | vacuum\b
    | (?:create|drop)\ (?:database|tablespace)\b
    | alter\ database\ {_NAME}\ set\ tablespace\b
    | alter\ system\b
    | alter\ table\ (?:if\ exists\ )?(?:only\ )?{_NAMES}\ (?:\*\ )?detach\ partition\ {_NAMES}\ concurrently\b
    | cluster(?:\ verbose|\ \([^()]*\))?$
    | discard\ all$
    | drop\ subscription\b
    | alter\ subscription\ {_NAME}\ refresh\b""",
    re.VERBOSE | re.IGNORECASE,
)
# These depend on an option: pattern, and whether the options mean "not in a transaction".
_REINDEX = re.compile(r"reindex \( (?P<options>[^()]*) \) (?:index|table)\b")
_CREATE_SUBSCRIPTION = re.compile(r"create subscription\b(?:.* with \( (?P<options>[^()]*) \)$)?", re.DOTALL)
_ALTER_PUBLICATIONS = re.compile(
    rf"alter subscription {_NAME} (?:set|add|drop) publication\b(?:.* with \( (?P<options>[^()]*) \)$)?",
    re.DOTALL | re.IGNORECASE,
)
_ALTER_SLOT = re.compile(rf"alter subscription {_NAME} set \( (?P<options>[^()]*) \)", re.IGNORECASE)
_MAY_NEED = frozenset(("create", "drop", "reindex", "vacuum", "alter", "cluster", "discard"))

_CONTROL = frozenset(("begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare"))
_CLOSING = re.compile(r"(?:commit|end)(?: work| transaction)?(?: and no chain)?")


def first_word(statement: Statement) -> str:
    """The statement's first word in lower case; empty when it begins with something else."""
    match = _FIRST_WORD.match(statement.text)
    return match.group().lower() if match else ""


def needs_no_transaction(statement: Statement) -> bool:
    """Whether PostgreSQL (15 to 18) refuses the statement inside a transaction block (SQLSTATE 25001).

    Source: every call of PreventInTransactionBlock in the server. Only the text is known here:
    DROP SUBSCRIPTION counts although one without a slot could run inside; REINDEX and CLUSTER of a
    partitioned table and CALL of a procedure that commits do not count although they could not.
    """
    word = first_word(statement)
    if word not in _MAY_NEED:
        return False
    command = " ".join(tokens(statement.text))
    if _NO_TRANSACTION.match(command):
        return True
    if found := _REINDEX.match(command):
        return _option(found, "concurrently", default=False)
    if found := _CREATE_SUBSCRIPTION.match(command):
        return _option(found, "create_slot", default=_option(found, "connect", default=True))
    if found := _ALTER_PUBLICATIONS.match(command):
        return _option(found, "refresh", default=True)
    if found := _ALTER_SLOT.match(command):
        return any(item.split(" ")[0] in ("failover", "two_phase") for item in _items(found))
    return False


def _items(found: re.Match[str]) -> list[str]:
    return [item.strip() for item in (found.group("options") or "").split(",")]


def _option(found: re.Match[str], name: str, *, default: bool) -> bool:
    """The value of a boolean option as defGetBoolean reads it; an option without a value is on."""
    value = default
    for item in _items(found):
        words = item.split(" ")
        if words[0].strip('"') == name:
            value = words[-1].strip("'").lower() not in ("false", "off", "0")
    return value


def transaction_control(statement: Statement) -> str:
    """The transaction control command the statement is, such as "COMMIT" or "ROLLBACK TO"; "" when it is none."""
    word = first_word(statement)
    if word not in _CONTROL:
        return ""
    second = next(islice(tokens(statement.text), 1, None), "")
    if word in ("start", "prepare"):
        return f"{word} transaction".upper() if second == "transaction" else ""
    return f"{word} {second}".upper() if second in ("prepared", "to") else word.upper()


def opens_transaction(statement: Statement) -> bool:
    """Whether the statement is BEGIN or START TRANSACTION, with or without transaction modes."""
    return transaction_control(statement) in ("BEGIN", "START TRANSACTION")


def closes_transaction(statement: Statement) -> bool:
    """Whether the statement is a plain COMMIT or END: not AND CHAIN, not PREPARED."""
    return bool(transaction_control(statement) and _CLOSING.fullmatch(" ".join(tokens(statement.text))))


def is_plain_begin(statement: Statement) -> bool:
    """Whether the statement opens a transaction without transaction modes."""
    return opens_transaction(statement) and len(list(tokens(statement.text))) <= 2
