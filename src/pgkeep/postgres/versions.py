"""The major versions of PostgreSQL that pgkeep supports. `make versions` tests each of them."""

OLDEST = 12
NEWEST = 18
SUPPORTED = range(OLDEST, NEWEST + 1)
OLDEST_FOR_POINT_IN_TIME = 15

REMEDY = "Update pgkeep. Until then, test backups of this server with pgkeep drill."


def problem(version: str, number: int) -> str | None:
    """Return a warning about a server that is newer than all supported versions.

    It is no error: the client programs of its version read it, and a drill proves the result.
    """
    if number // 10000 <= NEWEST:
        return None
    return f"server is PostgreSQL {version}, pgkeep supports {OLDEST} to {NEWEST}"
