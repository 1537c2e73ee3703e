"""The definitions of whole tables: which statements of the backup are executed."""

import re
from collections.abc import Iterable

from ...artifact.contents import Entry
from ...sql import selection, statements
from ...sql.statements import Name
from ..load.entries import PRIVILEGE_TYPES, without_owner
from ..target import tablespaces
from .plan import TablesOptions
from .selected import SelectedTables

# What makes a table a part of another one, or of a publication: not for a copy with a new name.
_TIES = frozenset({"TABLE ATTACH", "INDEX ATTACH", "PUBLICATION TABLE"})
# Of a trigger that a partition has from its parent, and a copy of it has not.
_SWITCH = re.compile(
    rb"\A(?:--[^\n]*\n|\n)*ALTER TABLE (?:ONLY )?%b\.%b (?:ENABLE|DISABLE) (?:\w+ )?TRIGGER "
    % (statements.IDENTIFIER, statements.IDENTIFIER)
)
_GRANTEE = re.compile(rb"^GRANT .* TO (%b)(?: WITH GRANT OPTION)?;$" % statements.IDENTIFIER, re.M)


def entries(tables: SelectedTables, options: TablesOptions) -> list[Entry]:
    """Return what is executed, the rows apart."""
    found = []
    for entry in tables.contents.of(tables.defined):
        kind, text = entry.one.type, entry.text
        if kind in PRIVILEGE_TYPES and not options.privileges:
            continue
        if options.new_name and (kind in _TIES or _SWITCH.search(text)):
            continue
        if not options.owner:
            text = without_owner(text)
        indexed = entry.one if options.tablespaces else tablespaces.without(entry.one, None)
        found.append(Entry(indexed, text, entry.table))
    return found


def new_name(tables: SelectedTables, options: TablesOptions) -> Name | None:
    """Return the name that the copy of the only table gets with --as."""
    if options.new_name is None:
        return None
    ((schema, _),) = tables.names
    *qualifier, name = selection.names(options.new_name)
    return (qualifier[0] if qualifier else schema), name


def roles(found: Iterable[Entry], codec: str, *, owner: bool) -> set[str]:
    """Return the roles that statements need: owners and grantees."""
    needed = set()
    for entry in found:
        if owner and entry.one.owner:
            needed.add(entry.one.owner)
        if entry.one.type == "ACL":
            names = {statements.unquoted(name, codec) for name in _GRANTEE.findall(entry.text)}
            needed |= names - {"PUBLIC"}
    return needed
