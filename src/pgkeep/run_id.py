"""The id of this run, which is the same in the log, in pg_stat_activity and in notifications."""

import functools
import secrets


@functools.cache
def run_id() -> str:
    """Return 8 hexadecimal digits, unique to the process."""
    return secrets.token_hex(4)
