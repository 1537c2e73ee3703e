"""Tables whose access method is skipped are created with the one that every server has."""

import re
from collections.abc import Container

import msgspec

from ...artifact.file import Object
from ...sql import statements

BUILT_IN = "heap"

_SETTING = re.compile(rb"^SET default_table_access_method = (%b);$" % statements.IDENTIFIER, re.M)
# Of a partitioned table, which has no storage (PostgreSQL 17).
_ALTER = re.compile(
    rb"^ALTER TABLE (?:ONLY )?%b\.%b SET ACCESS METHOD (%b);\n"
    % (statements.IDENTIFIER, statements.IDENTIFIER, statements.IDENTIFIER),
    re.MULTILINE,
)


def without(
    entry: Object, text: bytes, skipped: Container[str], codec: str
) -> tuple[Object, bytes]:
    """Return an object and its SQL without access methods that are skipped."""
    settings = _SETTING.sub(
        lambda match: (
            b"SET default_table_access_method = %b;" % BUILT_IN.encode()
            if statements.unquoted(match[1]) in skipped
            else match[0]
        ),
        entry.settings.encode(),
    ).decode()
    if settings != entry.settings:
        entry = msgspec.structs.replace(entry, settings=settings)
    text = _ALTER.sub(
        lambda match: b"" if statements.unquoted(match[1], codec) in skipped else match[0], text
    )
    return entry, text
