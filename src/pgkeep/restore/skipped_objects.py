"""The objects that a restore skips, with what needs them and the comments on them.

A plain dump does not record dependencies. They are found in the statements: pg_dump writes every
name with its schema.
"""

import copy
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from .. import errors as e
from ..artifact.contents import Contents, Entry
from ..artifact.file import Artifact, Object
from ..sql import portability, script, statements
from ..sql.statements import Name

Key = tuple[str, str, str]

_RELATIONS = frozenset({"TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE"})
# Other statements refer to these by their schema and name.
_NAMED = _RELATIONS | {
    "AGGREGATE", "COLLATION", "CONSTRAINT", "CONVERSION", "DOMAIN", "FUNCTION", "INDEX",
    "OPERATOR CLASS", "OPERATOR FAMILY", "PROCEDURE", "SHELL TYPE", "STATISTICS",
    "TEXT SEARCH CONFIGURATION", "TEXT SEARCH DICTIONARY", "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE", "TYPE",
}  # fmt: skip
_OF_TABLES = frozenset(
    {"CHECK CONSTRAINT", "CONSTRAINT", "FK CONSTRAINT", "POLICY", "RULE", "TRIGGER"}
)
# How statements refer to what has no schema.
_REFERENCES = {
    "ACCESS METHOD": (rb" USING %b[ (]",),
    "EXTENSION": (rb" LANGUAGE %b\b", rb" FOREIGN DATA WRAPPER %b\b", rb" USING %b[ (]"),
    "FOREIGN DATA WRAPPER": (rb" FOREIGN DATA WRAPPER %b\b",),
    "PROCEDURAL LANGUAGE": (rb" LANGUAGE %b\b",),
    "PUBLICATION": (rb"^ALTER PUBLICATION %b ",),
    "SERVER": (rb"SERVER %b\b",),
    "SUBSCRIPTION": (rb"^ALTER SUBSCRIPTION %b ",),
}
_EXTENSION_SCHEMA = re.compile(
    rb"^CREATE EXTENSION IF NOT EXISTS %b WITH SCHEMA (%b);"
    % (statements.IDENTIFIER, statements.IDENTIFIER),
    re.MULTILINE,
)
_OPERATOR = re.compile(rb"\bOPERATOR\((%b)\." % statements.IDENTIFIER)
_UNIQUE_KEY = re.compile(rb" (?:PRIMARY KEY|UNIQUE(?: NULLS NOT DISTINCT)?) \((.*?)\)")
_UNIQUE_INDEX = re.compile(rb"^CREATE UNIQUE INDEX .* USING btree \((.*?)\)", re.MULTILINE)
_REFERENCED_KEY = re.compile(rb" REFERENCES %b\((?P<columns>.*?)\)" % statements.QUALIFIED)


class _Item(NamedTuple):
    entry: Entry
    name: Name | None  # that other statements may use
    mentions: frozenset[Name]

    @property
    def key(self) -> Key:
        return key_of(self.entry.one)


class SkippedObjects:
    """The objects that are skipped, each with the reason."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._items = [_item(entry, contents) for entry in contents.entries]
        self._defined = {item.name for item in self._items if item.name is not None}
        self._reasons: dict[Key, str] = {}
        self._described: dict[Key, str] = {}
        self._following: set[Key] = set()
        self._tables: set[Name] = set()

    def copy(self) -> Self:
        """Return a copy that more can be added to."""
        new = copy.copy(self)
        new._reasons = dict(self._reasons)  # noqa: SLF001 - of our own class
        new._described = dict(self._described)  # noqa: SLF001
        new._tables = set(self._tables)  # noqa: SLF001
        return new

    def add(self, objects: Iterable[tuple[Object, str]]) -> None:
        """Skip objects for a reason each, and what cannot be created without them."""
        for entry, reason in objects:
            self._skip(entry, reason)
        while self._add_dependents():
            pass
        gone, rest = self._divided()
        # By the names in their statements: a comment has blanks for line ends.
        self._tables |= {
            item.name for item in gone if item.name and item.entry.one.type in _RELATIONS
        }
        about = _About(gone, rest)
        self._following = {
            item.key
            for item in self._items
            if item.entry.one.type in script.FOLLOWING_TYPES and about.matches(item)
        }

    def __contains__(self, entry: Object) -> bool:
        key = key_of(entry)
        if key in self._reasons or key in self._following:
            return True
        return entry.type == "TABLE DATA" and self.skips_rows((entry.schema, entry.name))

    def skips_rows(self, table: Name) -> bool:
        """Tell whether a table, or only its rows, are skipped."""
        return table in self._tables or self._is_of_extension(table)

    def lines(self) -> list[str]:
        """Name what is skipped, each with its reason; comments and privileges are not listed."""
        return [f"{self._described[key]} ({reason})" for key, reason in self._reasons.items()]

    def _skip(self, entry: Object, reason: str) -> None:
        key = key_of(entry)
        if key in self._reasons:
            return
        self._reasons[key] = reason
        self._described[key] = describe(entry)
        if entry.type in _RELATIONS or entry.type == "TABLE DATA":
            self._tables.add((entry.schema, entry.name))

    def _divided(self) -> tuple[list[_Item], list[_Item]]:
        gone = [item for item in self._items if item.key in self._reasons]
        rest = [
            item
            for item in self._items
            if item.key not in self._reasons and item.entry.one.type not in script.FOLLOWING_TYPES
        ]
        return gone, rest

    def _add_dependents(self) -> bool:
        gone, rest = self._divided()
        search = _Search(gone, rest, self._defined, self._contents.codec)
        found = [(item, reason) for item in rest if (reason := search.reason(item)) is not None]
        for item, reason in found:
            self._skip(item.entry.one, reason)
        return bool(found)

    def _is_of_extension(self, table: Name) -> bool:
        """Tell whether only a missing extension creates this table."""
        if table in self._defined:
            return False
        return table[0] in _extension_schemas(self._items, self._reasons, self._contents.codec)


class _About:
    """The comments, privileges and labels of what has gone."""

    def __init__(self, gone: Sequence[_Item], rest: Sequence[_Item]) -> None:
        self._names = _only_in(gone, rest).keys()
        self._labels: dict[str, list[re.Pattern[str]]] = {}
        for item in gone:
            self._labels.setdefault(item.entry.one.schema, []).append(_label(item.entry))

    def matches(self, item: _Item) -> bool:
        """Tell whether an entry is about something that has gone."""
        indexed = item.entry.one
        if item.entry.table in self._names or item.mentions & self._names:
            return True
        return any(label.fullmatch(indexed.name) for label in self._labels.get(indexed.schema, ()))


class _Search:
    """What has gone, in the forms in which statements may name it."""

    def __init__(
        self, gone: Sequence[_Item], rest: Sequence[_Item], defined: set[Name], codec: str
    ) -> None:
        self._codec = codec
        self._defined = defined
        self._names = _only_in(gone, rest)
        self._tables = {
            item.name: item for item in gone if item.entry.one.type in _RELATIONS and item.name
        }
        self._schemas = {
            item.entry.one.name: item for item in gone if item.entry.one.type == "SCHEMA"
        }
        self._types = {
            (item.entry.one.schema, item.entry.one.name)
            for item in gone
            if item.entry.one.type == "TYPE"
        }
        self._patterns = [
            (re.compile(pattern % _spelled(item.entry.one.name, codec), re.MULTILINE), item)
            for item in gone
            for pattern in _REFERENCES.get(item.entry.one.type, ())
        ]
        self._keys = [item for item in gone if item.entry.one.type in ("CONSTRAINT", "INDEX")]
        reasons = {item.key: "" for item in gone}
        self._extensions = _extension_schemas([*gone, *rest], reasons, codec)

    def reason(self, item: _Item) -> str | None:
        """Say why an object cannot be created; None if nothing it needs has gone."""
        indexed = item.entry.one
        if item.entry.table in self._tables:
            return f"belongs to {_of(self._tables[item.entry.table])}"
        if indexed.schema in self._schemas:
            return f"is in {_of(self._schemas[indexed.schema])}"
        if indexed.type == "SHELL TYPE" and (indexed.schema, indexed.name) in self._types:
            return f"belongs to type {indexed.schema}.{indexed.name}"
        for name in sorted(item.mentions & self._names.keys()):
            if name != item.name:
                return f"needs {_of(self._names[name])}"
        for pattern, other in self._patterns:
            if pattern.search(_outside_of_strings(item.entry.text)):
                return f"needs {_of(other)}"
        return self._extension_reason(item) or self._key_reason(item)

    def _extension_reason(self, item: _Item) -> str | None:
        for schema, name in sorted(item.mentions):
            if schema in self._extensions and (schema, name) not in self._defined:
                return f"needs {_of(self._extensions[schema])}: {schema}.{name}"
        for match in _OPERATOR.finditer(item.entry.text):
            schema = statements.unquoted(match[1], self._codec)
            if schema in self._extensions:
                return f"needs {_of(self._extensions[schema])}: an operator in {schema}"
        return None

    def _key_reason(self, item: _Item) -> str | None:
        """Say which unique key a foreign key refers to."""
        if item.entry.one.type != "FK CONSTRAINT":
            return None
        match = _REFERENCED_KEY.search(item.entry.text)
        if match is None:
            return None
        table = statements.name_of(match, self._codec)
        columns = set(re.findall(statements.IDENTIFIER, match["columns"]))
        for key in self._keys:
            unique = (_UNIQUE_KEY if key.entry.one.type == "CONSTRAINT" else _UNIQUE_INDEX).search(
                key.entry.text
            )
            if (
                key.entry.table == table
                and unique is not None
                and set(re.findall(statements.IDENTIFIER, unique[1])) == columns
            ):
                return f"needs {_of(key)}"
        return None


def select(artifact: Artifact, specifications: Iterable[str]) -> list[Object]:
    """Return the objects that `TYPE:NAME` means, as `pgkeep show --objects` names them.

    Raises:
        UsageError: there is no such object; the hint names similar ones.

    """
    known: dict[str, list[Object]] = {}
    for entry in artifact.index.objects:
        if entry.type not in script.LARGE_OBJECT_TYPES:
            known.setdefault(_specification(entry), []).append(entry)
    found: list[Object] = []
    for text in specifications:
        kind, colon, name = text.partition(":")
        if not (kind and colon and name):
            raise e.UsageError(f"--skip={text}: expected TYPE:NAME")
        wanted = f"{kind.upper()}:{name}"
        if wanted not in known:
            raise e.UsageError(
                f"--skip={text}: {artifact.source.name} has no such object",
                hint=_similar(wanted, known),
            )
        found += known[wanted]
    return found


def _similar(wanted: str, known: Iterable[str]) -> str:
    name = wanted.partition(":")[2].lower()
    same = [
        specification for specification in known if name in specification.partition(":")[2].lower()
    ]
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.6)
    found = list(dict.fromkeys([*near, *sorted(same, key=len)]))[:3]
    if not found:
        return "pgkeep show --objects FILE lists the objects of a backup."
    return f"Similar objects: {', '.join(found)}."


def _specification(entry: Object) -> str:
    return (
        f"{entry.type}:{entry.schema}.{entry.name}"
        if entry.schema
        else f"{entry.type}:{entry.name}"
    )


def key_of(entry: Object) -> Key:
    """Return what tells objects of a backup apart."""
    return entry.type, entry.schema, entry.name


def describe(entry: Object) -> str:
    """Name an object for messages."""
    name = f"{entry.schema}.{entry.name}" if entry.schema else entry.name
    return f"{entry.type.lower()} {name}"


def _only_in(gone: Iterable[_Item], rest: Iterable[_Item]) -> dict[Name, _Item]:
    """Return what has gone by name; of overloaded functions no statement tells which it needs."""
    left = {item.name for item in rest if item.name is not None}
    return {item.name: item for item in gone if item.name is not None and item.name not in left}


def _of(item: _Item) -> str:
    return describe(item.entry.one)


def _item(entry: Entry, contents: Contents) -> _Item:
    indexed = entry.one
    name = None
    if indexed.type in _NAMED:
        plain = (indexed.schema, indexed.name.partition("(")[0])
        name = statements.own_name(indexed.type, entry.text, contents.codec) or plain
    return _Item(entry, name, frozenset(statements.mentioned(entry.text, contents.codec)))


def _extension_schemas(items: Iterable[_Item], gone: Iterable[Key], codec: str) -> dict[str, _Item]:
    """Return the schemas of extensions that have gone, but for those that others are in too."""
    keys = set(gone)
    found: dict[str, _Item] = {}
    shared: set[str] = {"pg_catalog"}
    for item in items:
        match = _EXTENSION_SCHEMA.search(item.entry.text)
        if item.entry.one.type == "EXTENSION" and match is not None:
            schema = statements.unquoted(match[1], codec)
            if item.key in keys:
                found[schema] = item
            else:
                shared.add(schema)
    return {schema: item for schema, item in found.items() if schema not in shared}


def _label(entry: Entry) -> re.Pattern[str]:
    """Return how the entries about an object are called."""
    indexed = entry.one
    if indexed.type in _OF_TABLES and entry.table is not None:
        kind = "CONSTRAINT" if indexed.type.endswith("CONSTRAINT") else indexed.type
        table = entry.table[1]
        own = indexed.name.removeprefix(f"{table} ")
        return re.compile(f"{kind} {_either(own)} ON {_either(table)}")
    return portability.followers(indexed.type, indexed.name)


def _either(name: str) -> str:
    return f"(?:{re.escape(name)}|{re.escape(statements.quoted(name))})"


def _spelled(name: str, codec: str) -> bytes:
    return b"(?:%b|%b)" % (
        re.escape(name.encode(codec, "replace")),
        re.escape(statements.quoted(name).encode(codec, "replace")),
    )


_STRING = re.compile(
    rb"(?P<dollar>\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$).*?(?P=dollar)"
    rb"|[eE]?'(?:[^']|'')*+'|--[^\n]*",
    re.DOTALL,
)


def _outside_of_strings(text: bytes) -> bytes:
    return _STRING.sub(b"''", text)
