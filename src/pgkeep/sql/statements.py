"""Read the names in pg_dump's own statements.

pg_dump writes every name with its schema, and quotes it if necessary. Therefore the beginning of a
statement is sufficient.
"""

import re
from collections.abc import Mapping

Name = tuple[str, str]  # schema and name, as in the catalog

IDENTIFIER = rb'(?:"(?:[^"]|"")*+"|[^\s"().;,\']+)'
# The text between a statement's beginning and the name that it is about can contain quoted text.
_UP_TO = rb'(?:"(?:[^"]|"")*+"|[^"])*?'
QUALIFIED = rb"(?P<schema>%b)\.(?P<name>%b)" % (IDENTIFIER, IDENTIFIER)
INDEX_ON = re.compile(
    rb"^CREATE (?:UNIQUE )?INDEX (?:%b )?ON (?:ONLY )?%b" % (IDENTIFIER, QUALIFIED), re.MULTILINE
)
ALTER_TABLE = re.compile(rb"^ALTER (?:FOREIGN )?TABLE (?:ONLY )?%b" % QUALIFIED, re.MULTILINE)
REFERENCES = re.compile(rb" REFERENCES %b" % QUALIFIED)
OWNED_BY = re.compile(
    rb"^ALTER SEQUENCE %b\.%b OWNED BY %b\.%b;" % (IDENTIFIER, IDENTIFIER, QUALIFIED, IDENTIFIER),
    re.MULTILINE,
)
ATTACHED = re.compile(rb" ATTACH PARTITION %b" % QUALIFIED)

# Settings that pg_dump writes at the beginning of a dump and before entries.
SETTING = re.compile(
    rb"^(?:SET (?P<name>\w+) = [^;\n]+;|SELECT pg_catalog\.set_config\([^;\n]+\);)\n", re.MULTILINE
)

# How to find the relation of each type of entry; other types do not concern a relation.
_SUBJECT = {
    "INDEX": INDEX_ON,
    "DEFAULT": ALTER_TABLE,
    "CONSTRAINT": ALTER_TABLE,
    "CHECK CONSTRAINT": ALTER_TABLE,
    "FK CONSTRAINT": ALTER_TABLE,
    "ROW SECURITY": ALTER_TABLE,
    "SEQUENCE OWNED BY": OWNED_BY,
    "TABLE ATTACH": ATTACHED,
    "INDEX ATTACH": ATTACHED,
    # A trigger that was created by that of a partitioned table is only enabled or disabled.
    "TRIGGER": re.compile(
        rb"^(?:CREATE (?:CONSTRAINT )?TRIGGER %b ON |ALTER TABLE (?:ONLY )?)%b"
        % (_UP_TO, QUALIFIED),
        re.MULTILINE,
    ),
    "RULE": re.compile(
        rb"^(?:CREATE RULE %b +ON \w+ TO |CREATE OR REPLACE VIEW )%b" % (_UP_TO, QUALIFIED),
        re.MULTILINE,
    ),
    "POLICY": re.compile(rb"^CREATE POLICY %b ON %b" % (IDENTIFIER, QUALIFIED), re.MULTILINE),
    "STATISTICS": re.compile(rb" FROM %b;" % QUALIFIED),
    "PUBLICATION TABLE": re.compile(rb" ADD TABLE (?:ONLY )?%b" % QUALIFIED),
    "COMMENT": re.compile(
        rb"^COMMENT ON (?:(?:CONSTRAINT|TRIGGER|POLICY|RULE) %b ON |COLUMN |INDEX |SEQUENCE"
        rb" |STATISTICS |(?:FOREIGN )?TABLE |(?:MATERIALIZED )?VIEW )%b" % (IDENTIFIER, QUALIFIED),
        re.MULTILINE,
    ),
    "SECURITY LABEL": re.compile(
        rb"^SECURITY LABEL %b ON (?:TABLE|COLUMN|SEQUENCE) %b" % (_UP_TO, QUALIFIED), re.MULTILINE
    ),
    "ACL": re.compile(
        rb"^(?:GRANT|REVOKE) %b ON (?:TABLE|SEQUENCE) %b" % (_UP_TO, QUALIFIED), re.MULTILINE
    ),
}  # fmt: skip


# How to find the name of each type of entry; in the comment, spaces replace line ends.
_OWN = {
    "TABLE": re.compile(rb"^CREATE (?:UNLOGGED |FOREIGN )?TABLE %b" % QUALIFIED, re.MULTILINE),
    "SEQUENCE": re.compile(
        rb"^(?:CREATE (?:UNLOGGED )?SEQUENCE| +SEQUENCE NAME) %b" % QUALIFIED, re.MULTILINE
    ),
    "SEQUENCE OWNED BY": re.compile(rb"^ALTER SEQUENCE %b" % QUALIFIED, re.MULTILINE),
    "STATISTICS": re.compile(rb"^CREATE STATISTICS %b" % QUALIFIED, re.MULTILINE),
    "VIEW": re.compile(rb"^CREATE VIEW %b" % QUALIFIED, re.MULTILINE),
    "MATERIALIZED VIEW": re.compile(rb"^CREATE MATERIALIZED VIEW %b" % QUALIFIED, re.MULTILINE),
}
_OF_TABLE = {
    "INDEX": re.compile(rb"^CREATE (?:UNIQUE )?INDEX (?P<name>%b) ON " % IDENTIFIER, re.MULTILINE),
    "CONSTRAINT": re.compile(rb" ADD CONSTRAINT (?P<name>%b) " % IDENTIFIER),
    "FK CONSTRAINT": re.compile(rb" ADD CONSTRAINT (?P<name>%b) " % IDENTIFIER),
    "POLICY": re.compile(rb"^CREATE POLICY (?P<name>%b) ON " % IDENTIFIER, re.MULTILINE),
    "RULE": re.compile(rb"^CREATE RULE (?P<name>%b) AS" % IDENTIFIER, re.MULTILINE),
}


_CALLED = {("pg_catalog", "setval")}


def own_name(kind: str, text: bytes, codec: str) -> Name | None:
    """Return the name of the object that an entry's statement creates."""
    if kind in _OF_TABLE:
        match, table = _OF_TABLE[kind].search(text), subject(kind, text, codec)
        return (
            None if match is None or table is None else (table[0], unquoted(match["name"], codec))
        )
    if kind == "SEQUENCE SET":
        return next(iter(mentioned(text, codec) - _CALLED), None)
    match = _OWN[kind].search(text) if kind in _OWN else None
    return None if match is None else name_of(match, codec)


def unquoted(identifier: bytes, codec: str = "utf-8") -> str:
    """Return a name as in the catalog."""
    if identifier.startswith(b'"'):
        identifier = identifier[1:-1].replace(b'""', b'"')
    return identifier.decode(codec, "backslashreplace")


def quoted(name: str) -> str:
    """Return a name as written in a statement."""
    return '"' + name.replace('"', '""') + '"'


def subject(kind: str, text: bytes, codec: str) -> Name | None:
    """Return the relation that an entry concerns, such as the table of a trigger."""
    found = _SUBJECT.get(kind)
    if kind == "SEQUENCE" and b" AS IDENTITY (" in text:
        found = ALTER_TABLE
    match = found.search(text) if found is not None else None
    return None if match is None else name_of(match, codec)


def name_of(match: re.Match[bytes], codec: str) -> Name:
    """Return the qualified name that a pattern matched."""
    return unquoted(match["schema"], codec), unquoted(match["name"], codec)


_WORD = rb'(?:"(?:[^"]|"")*+"|[A-Za-z_\x80-\xff][\w$\x80-\xff]*)'
# Skip everything that can contain arbitrary text, including quoted names of one part, except
# literals that are names of relations.
_TOKEN = re.compile(
    rb"(?P<dollar>\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$).*?(?P=dollar)"
    rb"|(?:(?<=setval\()'(?P<sequence>(?:[^']|'')*+)'"
    rb"|'(?P<relation>(?:[^']|'')*+)'(?=::(?:\"?pg_catalog\"?\.)?\"?regclass))"
    rb"|[eE]?'(?:[^']|'')*+'"
    rb"|--[^\n]*"
    rb"|(?<![\w.\"$\x80-\xff])(?P<schema>%b)\.(?P<name>%b)"
    rb'|"(?:[^"]|"")*+"' % (_WORD, _WORD),
    re.DOTALL,
)
_LITERAL = re.compile(rb"(?P<schema>%b)\.(?P<name>%b)" % (_WORD, _WORD))


def mentioned(text: bytes, codec: str) -> set[Name]:
    """Return the qualified names in a statement; column names look the same."""
    found = (_qualified(match) for match in _TOKEN.finditer(text))
    return {name_of(match, codec) for match in found if match is not None}


def moved(text: bytes, schemas: Mapping[Name, str], codec: str) -> bytes:
    """Return a statement with these relations moved to other schemas."""

    def replace(match: re.Match[bytes]) -> bytes:
        inner = _qualified(match)
        schema = None if inner is None else schemas.get(name_of(inner, codec))
        if inner is None or schema is None:
            return match.group()
        name = quoted(schema).encode(codec) + b"." + inner["name"]
        return name if inner is match else b"'" + name.replace(b"'", b"''") + b"'"

    return _TOKEN.sub(replace, text)


def _qualified(match: re.Match[bytes]) -> re.Match[bytes] | None:
    literal = match["sequence"] or match["relation"]
    if literal is not None:
        return _LITERAL.fullmatch(literal.replace(b"''", b"'"))
    return match if match["schema"] else None
