# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The rest of ``catalog_queries``: kinds of objects of which a database has few, and what few objects have."""

# ruff: noqa: S608 (all that is put into SQL here are constants of these two files)
from __future__ import annotations

from ansible_collections.habitat.runbook.plugins.module_utils.catalog_queries import (
    FIRST,
    definition,
    not_internal,
    not_member,
    options,
    rights,
    row,
    sorted_list,
)


def _identity(catalog: str, oid: str) -> str:
    return f"(SELECT f.identity FROM pg_identify_object('{catalog}'::regclass, {oid}, 0) f)"


def _objects(catalog: str, text: str, where: str = "true") -> str:
    return f"SELECT '{catalog}'::regclass::oid, x.oid, {text} FROM {catalog} x WHERE x.oid >= {FIRST} AND {where}"


def _in_space(column: str) -> str:
    return f"x.{column} IN (SELECT oid FROM space)"


def _owner(column: str) -> str:
    return f"'owner ' || {column}::regrole"


def _named(label: str, column: str, cast: str) -> str:
    """A line about another object, if there is one."""
    return f"CASE WHEN {column} <> 0 THEN '{label} ' || {column}::oid::{cast} END"


_SCHEMAS = f"""
SELECT 'pg_namespace'::regclass::oid, x.oid, 0, 'schema ' || x.oid::regnamespace,
  {definition(_owner("nspowner"), rights("'n'", "nspacl", "nspowner"))}
FROM pg_namespace x WHERE oid IN (SELECT oid FROM space) AND {not_member("pg_namespace", "x.oid")}"""

# The owner of an extension cannot be changed and is not dumped; its objects are its own affair.
_EXTENSIONS = """
SELECT 'pg_extension'::regclass::oid, oid, 0, 'extension ' || quote_ident(extname),
  concat_ws(' ', 'version', quote_literal(extversion), 'schema', extnamespace::regnamespace)
FROM pg_extension"""

_NOT_OF_AN_OPERATOR = ("oid", "oprname", "oprnamespace", "oprowner", "oprleft", "oprright", "oprresult")
_OPERATOR = definition(
    _owner("oprowner"),
    _named("function", "oprcode", "regprocedure"),
    _named("result", "oprresult", "regtype"),
    _named("commutator", "oprcom", "regoperator"),
    _named("negator", "oprnegate", "regoperator"),
    row("x", *_NOT_OF_AN_OPERATOR, "oprcom", "oprnegate"),
)
_OPERATOR_CLASS = definition(
    _owner("opcowner"),
    f"'family ' || {_identity('pg_opfamily', 'opcfamily')}",
    _named("for", "opcintype", "regtype"),
    _named("stored as", "opckeytype", "regtype"),
    "CASE WHEN opcdefault THEN 'default' END",
)
_SORTED_BY = f"CASE WHEN amopsortfamily <> 0 THEN 'sorted by ' || {_identity('pg_opfamily', 'amopsortfamily')} END"
_FAMILY_OPERATOR = definition("'operator ' || amopopr::regoperator", "'for ' || amoppurpose::text", _SORTED_BY)
_CAST = definition(_named("function", "castfunc", "regprocedure"), "concat(castcontext, ' ', castmethod)")
_OPERATORS = (
    _objects("pg_operator", _OPERATOR, _in_space("oprnamespace")),
    _objects("pg_opclass", _OPERATOR_CLASS, _in_space("opcnamespace")),
    _objects("pg_opfamily", _owner("opfowner"), _in_space("opfnamespace")),
    _objects(
        "pg_amop",
        _FAMILY_OPERATOR,
        f"{not_member('pg_opfamily', 'amopfamily')} AND {not_member('pg_operator', 'amopopr')}",
    ),
    _objects(
        "pg_amproc",
        "amproc::oid::regprocedure::text",
        f"{not_member('pg_opfamily', 'amprocfamily')} AND {not_member('pg_proc', 'amproc::oid')}",
    ),
    _objects("pg_cast", _CAST, not_internal("pg_cast")),
)

# The version of a collation is that of the operating system's library.
_COLLATION = definition(
    _owner("collowner"), row("x", "oid", "collname", "collnamespace", "collowner", "collversion") + "::text"
)
_CONVERSION = definition(
    _owner("conowner"),
    "pg_encoding_to_char(conforencoding) || ' to ' || pg_encoding_to_char(contoencoding)",
    _named("function", "conproc", "regprocedure"),
    "CASE WHEN condefault THEN 'default' END",
)
_DICTIONARY = definition(
    _owner("dictowner"), f"'template ' || {_identity('pg_ts_template', 'dicttemplate')}", "dictinitoption"
)
_TEXT = (
    _objects("pg_collation", _COLLATION, _in_space("collnamespace")),
    _objects("pg_conversion", _CONVERSION, _in_space("connamespace")),
    _objects("pg_ts_dict", _DICTIONARY, _in_space("dictnamespace")),
    _objects("pg_ts_template", row("x", "oid", "tmplnamespace") + "::text", _in_space("tmplnamespace")),
    _objects("pg_ts_parser", row("x", "oid", "prsnamespace") + "::text", _in_space("prsnamespace")),
    _objects(
        "pg_ts_config",
        definition(_owner("cfgowner"), f"'parser ' || {_identity('pg_ts_parser', 'cfgparser')}"),
        _in_space("cfgnamespace"),
    ),
)

_LANGUAGE = definition(
    _owner("lanowner"),
    rights("'l'", "lanacl", "lanowner"),
    "CASE WHEN lanpltrusted THEN 'trusted' END",
    _named("handler", "lanplcallfoid", "regprocedure"),
    _named("inline", "laninline", "regprocedure"),
    _named("validator", "lanvalidator", "regprocedure"),
)
_TRANSFORM = definition(
    _named("from", "trffromsql", "regprocedure"),
    _named("to", "trftosql", "regprocedure"),
)
_EVENT_TRIGGER = definition(
    _owner("evtowner"),
    "'on ' || evtevent",
    _named("function", "evtfoid", "regprocedure"),
    "'enabled ' || evtenabled::text",
    f"'tags ' || {sorted_list('evttags')}",
)
_PROGRAMS = (
    _objects("pg_language", _LANGUAGE),
    _objects("pg_transform", _TRANSFORM),
    _objects("pg_am", definition(_named("handler", "amhandler", "regprocedure"), "'type ' || amtype::text")),
    _objects("pg_event_trigger", _EVENT_TRIGGER),
)

_WRAPPER = definition(
    _owner("fdwowner"),
    rights("'F'", "fdwacl", "fdwowner"),
    _named("handler", "fdwhandler", "regprocedure"),
    _named("validator", "fdwvalidator", "regprocedure"),
    f"'options ' || {options('fdwoptions')}",
)
_SERVER = definition(
    _owner("srvowner"),
    rights("'S'", "srvacl", "srvowner"),
    f"'wrapper ' || {_identity('pg_foreign_data_wrapper', 'srvfdw')}",
    "'type ' || quote_literal(srvtype)",
    "'version ' || quote_literal(srvversion)",
    f"'options ' || {options('srvoptions')}",
)
# A view, since the catalog itself can be read by superusers only.
_MAPPINGS = f"""
SELECT 'pg_user_mapping'::regclass::oid, umid, 0,
  'user mapping for ' || CASE umuser WHEN 0 THEN 'public' ELSE umuser::regrole::text END
    || ' on server ' || quote_ident(srvname),
  coalesce('options ' || {sorted_list("umoptions", "split_part(one, '=', 1)")}, '')
FROM pg_user_mappings WHERE {not_member("pg_foreign_server", "srvid")}"""
_FOREIGN = (_objects("pg_foreign_data_wrapper", _WRAPPER), _objects("pg_foreign_server", _SERVER))

_STATISTICS = definition(
    _owner("stxowner"),
    "pg_get_statisticsobjdef(x.oid)",
    "'target ' || nullif(stxstattarget, -1)",
)
_PUBLISHED = definition(
    "'columns ' || (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attname) FROM pg_attribute a"
    " WHERE a.attrelid = x.prrelid AND a.attnum = ANY (x.prattrs::int2[]))",
    "'where ' || pg_get_expr(x.prqual, x.prrelid)",
    "''",
)
# Of a subscription only what every role may read; how it connects is a secret.
_SUBSCRIPTIONS = f"""
SELECT 'pg_subscription'::regclass::oid, oid, 0, 'subscription ' || quote_ident(subname),
  {
    definition(
        _owner("subowner"),
        "'enabled ' || subenabled::text",
        "'slot ' || quote_literal(subslotname)",
        "'commit ' || subsynccommit",
        f"'publications ' || {sorted_list('subpublications')}",
    )
}
FROM pg_subscription WHERE subdbid = (SELECT d.oid FROM pg_database d WHERE datname = current_database())"""
_OTHERS = (
    _objects("pg_statistic_ext", _STATISTICS, _in_space("stxnamespace")),
    _objects("pg_publication", definition(_owner("pubowner"), row("x", "oid", "pubname", "pubowner"))),
    _objects("pg_publication_rel", _PUBLISHED),
    _objects("pg_publication_namespace", "''"),
    _objects("pg_default_acl", sorted_list("defaclacl", "one::text")),
)

# PostgreSQL's own words name them; what belongs to an operator family is told apart by its identity alone.
_NAMED = f"""
SELECT classid, objid, 0, CASE i.type WHEN 'operator of access method' THEN '' WHEN 'function of access method' THEN ''
                          WHEN 'default acl' THEN 'default privileges ' ELSE i.type || ' ' END || i.identity, definition
FROM ({" UNION ALL ".join((*_OPERATORS, *_TEXT, *_PROGRAMS, *_FOREIGN, *_OTHERS))}) AS x (classid, objid, definition),
  pg_identify_object(classid, objid, 0) i
WHERE (classid, objid) NOT IN (SELECT classid, objid FROM member)"""

RARE = (_SCHEMAS, _EXTENSIONS, _MAPPINGS, _SUBSCRIPTIONS, _NAMED)

# Comments and labels are quoted, so that their text cannot look like other lines.
_COMMENTS = f"""
SELECT classoid, objoid, objsubid, 'comment ' || quote_literal(description) FROM pg_description
WHERE objoid >= {FIRST} OR classoid IN ('pg_namespace'::regclass, 'pg_extension'::regclass)
UNION ALL
SELECT classoid, objoid, objsubid, concat_ws(' ', 'label', quote_literal(provider), quote_literal(label))
FROM pg_seclabel"""

_OF_RELATIONS = f"""
SELECT 'pg_class'::regclass, inhrelid, 0,
  'inherits ' || string_agg(inhparent::regclass || CASE WHEN inhdetachpending THEN ' until detached' ELSE '' END, ', '
                            ORDER BY inhseqno)
FROM pg_inherits GROUP BY inhrelid
UNION ALL
SELECT 'pg_class'::regclass, oid, 0, (SELECT 'toast options ' || {sorted_list("t.reloptions")} FROM pg_class t
                                       WHERE t.oid = c.reltoastrelid)
FROM pg_class c
WHERE reltoastrelid = ANY (ARRAY(SELECT t.oid FROM pg_class t WHERE t.relkind = 't' AND t.reloptions IS NOT NULL))
UNION ALL
SELECT 'pg_class'::regclass, ftrelid, 0,
  concat_ws(' ', 'server', {_identity("pg_foreign_server", "ftserver")}, 'options', {options("ftoptions")})
FROM pg_foreign_table
UNION ALL
SELECT 'pg_class'::regclass, seqrelid, 0, concat_ws(' ', seqtypid::regtype, 'start', seqstart, 'by', seqincrement,
  'from', seqmin, 'to', seqmax, 'cache', seqcache, CASE WHEN seqcycle THEN 'cycle' END,
  (SELECT 'owned by ' || d.refobjid::regclass || '.' || quote_ident(a.attname)
   FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
   WHERE d.classid = 'pg_class'::regclass AND d.objid = seqrelid AND d.objsubid = 0
     AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')))
FROM pg_sequence
UNION ALL
SELECT 'pg_class'::regclass, indexrelid, 0,
  (SELECT 'statistics ' || string_agg(attnum || ' ' || attstattarget, ', ' ORDER BY attnum) FROM pg_attribute
   WHERE attrelid = indexrelid AND attstattarget >= 0)
FROM pg_index WHERE indexrelid >= {FIRST} AND indexprs IS NOT NULL
UNION ALL
SELECT 'pg_class'::regclass, tgrelid, 0,
  concat_ws(' ', 'triggers of constraint', quote_ident(conname), 'enabled', tgenabled)
FROM pg_trigger JOIN pg_constraint k ON k.oid = tgconstraint WHERE tgisinternal AND tgenabled <> 'O'"""

_OF_TYPES = f"""
SELECT 'pg_type'::regclass, enumtypid, 0,
  'labels ' || string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) FROM pg_enum GROUP BY enumtypid
UNION ALL
SELECT 'pg_type'::regclass, rngtypid, 0,
  concat_ws(' ', 'over', rngsubtype::regtype, {_identity("pg_opclass", "rngsubopc")},
  nullif(rngcollation, 0)::regcollation, 'canonical', rngcanonical, 'difference', rngsubdiff, 'multirange',
  rngmultitypid::regtype) FROM pg_range WHERE rngtypid >= {FIRST}
UNION ALL
SELECT 'pg_ts_config'::regclass, mapcfg, 0,
  alias || ' by ' || string_agg(mapdict::regdictionary::text, ', ' ORDER BY mapseqno)
FROM pg_ts_config_map JOIN pg_ts_config c ON c.oid = mapcfg, ts_token_type(cfgparser) WHERE tokid = maptokentype
  AND mapcfg >= {FIRST} GROUP BY mapcfg, alias"""

FACETS = (_COMMENTS, _OF_RELATIONS, _OF_TYPES)
