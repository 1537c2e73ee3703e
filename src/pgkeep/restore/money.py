"""Find whether a restore reads values of type money, which are text of one locale (trap A5.25)."""

import re
from collections.abc import Callable, Iterable, Sequence

from ..artifact.contents import Contents, Entry
from ..postgres.connection import Connection
from ..sql import statements
from ..sql.statements import IDENTIFIER, Name
from .load import settings

_TYPES = frozenset({"TABLE", "TYPE", "DOMAIN"})
_LITERAL = re.compile(rb"'::(?:pg_catalog\.)?money\b")
_OF_TYPE = re.compile(
    rb"(?:^\s+%b |\bAS |[sS]ubtype = )(?:pg_catalog\.)?\"?money\"?(?:\[\])*(?=[\s,;)])"
    % IDENTIFIER,
    re.MULTILINE,
)


def problem(
    connection: Connection, contents: Contents, entries: Sequence[Entry],
    rows_of: Callable[[Name], bool],
) -> tuple[str, str] | None:  # fmt: skip
    """Say that the server lacks the locale of the money that a restore reads, with a remedy.

    `entries` are the definitions of what is restored, `rows_of` tells the tables whose rows are.
    """
    meta = contents.artifact.index.meta
    locale = meta.lc_monetary
    if (
        locale is None
        or settings.is_chosen(connection, "lc_monetary")
        or settings.is_available(connection, "lc_monetary", locale)
        or not _reads(contents, entries, rows_of)
    ):
        return None
    return (
        f"values of type money are written in locale {locale}, which the server does not have",
        (
            "Install the locale on the database server, or name another one that writes money in"
            " the same way: PGOPTIONS='-c lc_monetary=NAME'."
        ),
    )


def _reads(contents: Contents, entries: Iterable[Entry], rows_of: Callable[[Name], bool]) -> bool:
    filled = {
        (table.schema, table.name)
        for table in contents.artifact.index.table_rows()
        if table.rows and rows_of((table.schema, table.name))
    }
    if filled.intersection(_having(contents), set(contents.tables)):
        return True
    # What only an extension defines is not known.
    return bool(filled.intersection(contents.without_definition)) or any(
        _LITERAL.search(entry.text) for entry in entries
    )


def _having(contents: Contents) -> set[Name]:
    """Return the types and tables that have such values, or that name others which do."""
    kinds = {
        name: entry
        for entry in contents.entries
        if entry.one.type in _TYPES
        for name in [statements.own_name(entry.one.type, entry.text, contents.codec)
                     or (entry.one.schema, entry.one.name)]
    }  # fmt: skip
    named = {
        name: statements.mentioned(entry.text, contents.codec) for name, entry in kinds.items()
    }
    found = {name for name, entry in kinds.items() if _OF_TYPE.search(entry.text)}
    while more := {name for name, others in named.items() if others & found} - found:
        found |= more
    return found
