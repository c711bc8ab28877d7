# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Does a text read as SQL: the beginning of every PostgreSQL command, as its synopsis in the manual has it.

Made to tell commented-out SQL from prose in a comment. It knows how each command begins, not the
whole grammar, and errs on the side of "not SQL".
"""

from __future__ import annotations

import re

from ansible_collections.habitat.runbook.plugins.module_utils.canonical import tokens
from ansible_collections.habitat.runbook.plugins.module_utils.lexis import START
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement

# The key words that can never be a name (Appendix C of the manual, "reserved").
_RESERVED = """all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create
current_catalog current_date current_role current_time current_timestamp current_user default deferrable desc distinct
do else end except false fetch for foreign from grant group having in initially intersect into lateral leading limit
localtime localtimestamp not null offset on only or order placing primary references returning select session_user
some symmetric system_user table then to trailing true union unique user using variadic when where window with"""

# What may stand behind ALTER <kind> <name>.
_ACTIONS = """add alter as attach bypassrls cache called cluster connection cost createdb createrole cycle depends
detach disable drop enable encrypted external force handler immutable in increment inherit inherits leakproof login
maxvalue minvalue no nobypassrls nocreatedb nocreaterole noinherit nologin noreplication nosuperuser not of on options
owned owner parallel password publication refresh rename replica replication reset restart returns rows security server
set skip stable start strict superuser support to update using valid validate validator version volatile with"""

_KINDS = """collation conversion database domain extension group index language operator|class operator|family
operator policy publication role rule schema sequence server statistics subscription system tablespace trigger type
user view event|trigger foreign|data|wrapper foreign|table materialized|view procedural|language
text|search|configuration text|search|dictionary text|search|parser text|search|template user|mapping access|method
transform cast large|object"""
_ROUTINES = "(?:aggregate|function|procedure|routine)"

_PRIVILEGES = """all select insert update delete truncate references trigger maintain create connect temporary temp
execute usage set alter"""


def _any(words: str) -> str:
    return "(?:" + "|".join(word.replace("|", " ") for word in words.split()) + ")"


_N = rf"(?!{_any(_RESERVED)}(?: |$)){START}[^ ]*"
_Q = rf"{_N}(?: \. {_N})*"
_ARGUMENTS = r"(?: \([^()]*(?:\([^()]*\)[^()]*)*\))?"
_LIST = rf"{_Q}{_ARGUMENTS}(?: , {_Q}{_ARGUMENTS})*"
_TABLES = rf"(?:only )?{_Q}(?: \*)?(?: , (?:only )?{_Q}(?: \*)?)*"
_END = "(?: cascade| restrict)?$"
_KIND = f"(?:table|{_ROUTINES}|{_any(_KINDS)})"
_MODES = (
    r"(?:isolation level (?:serializable|read committed|read uncommitted|repeatable read)|read (?:write|only)"
    r"|(?:not )?deferrable)"
)
_ADJECTIVES = "(?:(?:trusted|procedural|default|unique|recursive|constraint|temp|temporary) )*"
_BEGIN = f"(?:{_MODES}(?: ,)?(?: |$))*$"
_ENDING = r"(?:work|transaction)?(?: ?and (?:no )?chain)?$"

# First word: what may follow it, on the tokens with blanks between; every string is ' and every quoted name q.
_COMMANDS = {
    "abort": _ENDING,
    "alter": rf"(?:default privileges .*\b(?:grant|revoke) |large object \d+ owner |system (?:set|reset) "
    r"|operator [^a-z(]+ \(.*\) (?:owner|set) "
    rf"|{_KIND} (?:if exists )?(?:only |all in tablespace |for )?(?:{_Q}|\S+){_ARGUMENTS}(?: \*)?"
    rf"(?: (?:on|using|for|server) \S+(?: \. \S+)*)*(?: {_any(_ACTIONS)}(?: |$)))",
    "analyse": rf"(?:\(.*|(?:verbose ?)?(?:{_LIST})?)$",
    "analyze": rf"(?:\(.*|(?:verbose ?)?(?:{_LIST})?)$",
    "begin": f"(?:(?:work|transaction)(?: |$))?{_BEGIN}",
    "call": rf"{_Q} \(.*\)$",
    "checkpoint": "$",
    "close": rf"(?:all|{_N})$",
    "cluster": rf"(?:\(.*|verbose.*|{_Q}(?: using {_N})?)?$",
    "comment": rf"on (?:column|constraint|{_KIND}) .+ is (?:'|null)$",
    "commit": f"(?:prepared '$|{_ENDING})",
    "copy": r"(?:binary )?(?:\(.*\)|\S+.*) (?:from|to) (?:'|program '|stdin|stdout)",
    "create": rf"(?:or replace )?(?:(?:global |local )?(?:temp |temporary |unlogged )?table (?:if not exists )?{_Q} "
    rf"(?:\(|as |of |partition of |using |with |inherits )"
    rf"|{_ADJECTIVES}(?:{_ROUTINES}|{_any(_KINDS)}) .+)",
    "deallocate": rf"(?:prepare )?(?:all|{_N})$",
    "declare": r"\S+ .*cursor .*for ",
    "delete": rf"from {_TABLES}(?: (?:as )?{_N})?(?: (?:using|where|returning) .+)?$",
    "discard": "(?:all|plans|sequences|temp|temporary)$",
    "do": rf"(?:language {_N} )?'(?: language {_N})?$",
    "drop": rf"(?:owned by \S+(?: , \S+)*|cast (?:if exists )?\(.*\)|large object \d+|transform .+|operator .+"
    rf"|user mapping (?:if exists )?for \S+ server {_N}"
    rf"|{_ROUTINES} (?:if exists )?{_LIST}"
    rf"|(?:table|{_any(_KINDS)}) (?:concurrently )?(?:if exists )?{_Q}(?: , {_Q})*(?: (?:on|using) {_Q})?"
    rf"(?: (?:with )?\( force \))?){_END}",
    "end": _ENDING,
    "execute": rf"{_N}(?: \(.*\))?$",
    "explain": ".+",
    "fetch": rf"(?:.+ (?:from|in) )?{_N}$",
    "grant": rf"(?:{_any(_PRIVILEGES)}\b.* on .+ to .+|{_N}(?: , {_N})* to \S+.*)",
    "import": "foreign schema .+ from server .+ into ",
    "insert": rf"into {_Q}(?: as {_N})? (?:\(|values |select |default values|with |overriding |table {_Q}$)",
    "listen": f"{_N}$",
    "load": "'$",
    "lock": rf"(?:table )?{_TABLES}(?: in .+ mode)?(?: nowait)?$",
    "merge": "into .+ using .+ on .+ when ",
    "move": rf"(?:.+ (?:from|in) )?{_N}$",
    "notify": f"{_N}(?: , ')?$",
    "prepare": rf"(?:transaction '$|{_N}{_ARGUMENTS} as )",
    "reassign": "owned by .+ to ",
    "refresh": rf"materialized view (?:concurrently )?{_Q}(?: with (?:no )?data)?$",
    "reindex": rf"(?:\(.*\) )?(?:index|table|schema|database|system)(?: concurrently)?(?: {_Q})?$",
    "release": rf"(?:savepoint )?{_N}$",
    "reset": rf"(?:all|role|session authorization|time zone|{_Q})$",
    "revoke": rf"(?:(?:grant|admin|inherit|set) option for )?(?:{_any(_PRIVILEGES)}\b.* on .+ from .+"
    rf"|{_N}(?: , {_N})* from \S+.*)",
    "rollback": rf"(?:prepared '$|(?:work |transaction )?to (?:savepoint )?{_N}$|{_ENDING})",
    "savepoint": f"{_N}$",
    "security": "label .*on .+ is ",
    "select": ".+",
    "set": rf"(?:session |local )?(?:{_Q} (?:=|to) .+|time zone .+|role \S+$|session authorization \S+$"
    r"|transaction .+|characteristics as .+|constraints .+ (?:deferred|immediate)$|schema '$|names '$|xml option \S+$)",
    "show": rf"(?:all|time zone|session authorization|transaction isolation level|{_Q})$",
    "start": f"transaction(?: |$){_BEGIN}",
    "table": rf"(?:only )?{_Q}(?: \*)?$",
    "truncate": rf"(?:table )?{_TABLES}(?: (?:restart|continue) identity)?{_END}",
    "unlisten": rf"(?:\*|{_N})$",
    "update": rf"(?:only )?{_Q}(?: \*)?(?: (?:as )?{_N})? set .+ =",
    "vacuum": rf"(?:\(.*|full.*|freeze.*|verbose.*|analyze.*|{_LIST})?$",
    "values": r"\(.*\)$",
    "with": rf"(?:recursive )?{_N}{_ARGUMENTS} as (?:not materialized |materialized )?\(",
}


def reads_as_sql(statement: Statement) -> bool:
    """Whether the statement begins as a PostgreSQL command does."""
    words = [_simple(token) for token in tokens(statement.text)]
    pattern = _COMMANDS.get(words[0])
    return bool(pattern and re.match(pattern, " ".join(words[1:]), re.DOTALL))


def _simple(token: str) -> str:
    if token.endswith("'") or (token.startswith("$") and token.endswith("$") and len(token) > 1):
        return "'"
    return "q" if token.endswith('"') else token
