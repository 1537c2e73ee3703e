"""The name of a cluster, which distinguishes backups of different servers."""

import re
from collections.abc import Iterable

ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
EXPECTED = "1 to 63 letters, digits, dots, underscores or hyphens, a letter or digit first"

FOLDER = "pitr/"  # of a store: clusters whose WAL is archived
_DESCRIPTION = re.compile(FOLDER + r"(?P<identifier>[0-9]{1,20})\.cluster\.json")


def is_description(file: str) -> bool:
    """Whether a file of a store describes a cluster whose WAL is archived."""
    return _DESCRIPTION.fullmatch(file) is not None


def described(files: Iterable[str]) -> list[str]:
    """Return the system identifiers of the clusters that files describe."""
    found = (_DESCRIPTION.fullmatch(file) for file in files)
    return sorted(match["identifier"] for match in found if match is not None)


def short_form(system_identifier: str) -> str:
    """Return the last 8 hexadecimal digits of a system identifier, or "" if it is unknown.

    The upper half of the identifier is the time of initdb. The lower half also contains the process
    ID, so that clusters that were made by the same script differ.
    """
    if re.fullmatch(r"host-[0-9a-f]{16}", system_identifier):
        return system_identifier[-8:]  # of a server that does not let the role read its identifier
    if not re.fullmatch(r"[0-9]{1,20}", system_identifier) or not int(system_identifier):
        return ""
    return f"{int(system_identifier):016x}"[-8:]
