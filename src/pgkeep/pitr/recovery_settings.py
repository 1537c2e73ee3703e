"""The configuration of a restored cluster: while it recovers, and afterwards.

That of the source is kept as `*.source`. It is never used: it would archive, connect to other
servers, listen, load libraries and run commands.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..postgres.server import quoted
from .target import Point

PORT = 5432
# No code of a database's owner may run as a superuser: not by a login, and not by autovacuum.
_SETTINGS = {
    "listen_addresses": "",
    "archive_mode": "off",
    "hot_standby": "on",
    "recovery_prefetch": "off",
    "max_logical_replication_workers": "0",
    "autovacuum": "off",
    "jit": "off",
    "allow_in_place_tablespaces": "on",  # else recovery ends with PANIC at one
    "fsync": "off",  # the files are flushed when all is proved
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_min_messages": "warning",
    "log_line_prefix": "%m ",
    "lc_messages": "C",
    "ssl": "off",
    "cluster_name": "pgkeep recovery",
}
EVENT_TRIGGERS_SINCE = 17
_USUAL_SEGMENT = 16 << 20
# Manual, 27.4.7 "Hot Standby Parameter Reference".
_NOT_LOWER = frozenset({
    "max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions",
    "max_locks_per_transaction",
})  # fmt: skip
_REPLACED = ("postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf")
_REMOVED = (
    "recovery.signal", "standby.signal", "postmaster.pid", "postmaster.opts",
    "current_logfiles", "tablespace_map",  # recovery would make links from it
)  # fmt: skip
_HEAD = """\
# Written by pgkeep pitr restore. The configuration of the source is in postgresql.conf.source and
# postgresql.auto.conf.source if it was in its data directory, otherwise below pgkeep.source. Copy
# from there what this server needs, such as shared_preload_libraries, memory, locale and log
# settings. Do not copy archive_mode and archive_command before this server has an archive of its
# own (pgkeep pitr enable).
listen_addresses = 'localhost'
archive_mode = off
"""
_HBA = """\
# Written by pgkeep pitr restore; the lines of the source are in pg_hba.conf.source if it was in its
# data directory.
local all {superuser} peer map=pgkeep
local all all peer
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
"""


def raised(*settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the highest value of each setting that recovery must not lower.

    Other names are ignored: a manifest comes from a store, and each line of the configuration of a
    server can run a command.
    """
    highest: dict[str, int] = {}
    for found in settings:
        for name, value in found.items():
            if name in _NOT_LOWER and re.fullmatch("[0-9]{1,9}", str(value)):
                highest[name] = max(highest.get(name, 0), int(value))
    return {name: str(value) for name, value in highest.items()}


def of_segments(size: int) -> dict[str, str]:
    """Return the settings without which a server with segments of this size does not start."""
    if size <= _USUAL_SEGMENT:
        return {}
    megabytes = size >> 20
    return {"min_wal_size": f"{2 * megabytes}MB", "max_wal_size": f"{max(1024, 4 * megabytes)}MB"}


def recovery(point: Point, timeline: int) -> dict[str, str]:
    """Return the settings that recover to a point, from the WAL in pg_wal alone.

    restore_command has to be set, and PostgreSQL asks it first: exit status 1 means that it does
    not have the file.
    """
    name, value = point.setting
    return {
        name: value,
        "recovery_target_timeline": str(timeline),
        "recovery_target_inclusive": "on",
        "recovery_target_action": "pause",
        "restore_command": "false",
    }


def prepare(data: Path) -> None:
    """Put the configuration of the source aside, and what its server left."""
    for name in _REPLACED:
        source = data / name
        if source.exists():
            source.rename(source.with_name(f"{name}.source"))
    for name in _REMOVED:
        (data / name).unlink(missing_ok=True)
    (data / "postgresql.auto.conf").write_text("")


def write_temporary(run: Path, major: int, settings: Mapping[str, str]) -> None:
    """Write the configuration of the server that recovers, outside the data directory."""
    own = {
        **_SETTINGS,
        **({"event_triggers": "off"} if major >= EVENT_TRIGGERS_SINCE else {}),
        "unix_socket_directories": '"' + str(run).replace('"', '""') + '"',
        "unix_socket_permissions": "0700",
        "port": str(PORT),
        "hba_file": str(run / "pg_hba.conf"),
        "ident_file": str(run / "pg_ident.conf"),
        **settings,
    }
    (run / "postgresql.conf").write_text(_text(own))
    (run / "pg_hba.conf").write_text("local all all trust\n")
    (run / "pg_ident.conf").write_text("")


def write_final(
    data: Path, settings: Mapping[str, str], *, superuser: str, owner: str, in_place: bool
) -> None:
    """Write a configuration with which `pg_ctl start` starts the restored cluster."""
    for name in ("postmaster.pid", "postmaster.opts"):
        (data / name).unlink(missing_ok=True)
    if in_place:  # a server that recovers, such as a standby, would refuse such a tablespace
        settings = {**settings, "allow_in_place_tablespaces": "on"}
    name = '"' + superuser.replace('"', '""') + '"'
    mapped = superuser.isprintable()  # these files have no way to write a line end
    (data / "postgresql.conf").write_text(_HEAD + _text(settings))
    (data / "postgresql.auto.conf").write_text("")
    (data / "pg_hba.conf").write_text(_HBA.format(superuser=name if mapped else "all"))
    ident = f'pgkeep "{owner}" {name}\n' if mapped else ""
    (data / "pg_ident.conf").write_text(ident)
    for file in _REPLACED:
        (data / file).chmod(0o600)


def _text(settings: Mapping[str, str]) -> str:
    return "".join(f"{name} = {quoted(value)}\n" for name, value in settings.items())
