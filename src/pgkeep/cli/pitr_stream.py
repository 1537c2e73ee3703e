"""pgkeep pitr stream."""

import os
import signal
import socket
import threading
from types import FrameType

import click

from .. import errors as e
from ..model.wal import Lsn
from ..pitr import service, slot
from ..pitr.base import ServerState
from . import output
from .command import pgkeep_command
from .common import connection_options, dir_option, load_config, target_option
from .pitr_archive import RULES, NoReceive, no_receive_options


@pgkeep_command(
    "stream",
    examples=(
        "pgkeep pitr stream",
        "pgkeep pitr stream --until=0/5000000",
        "pgkeep pitr stream --no-receive           # for pgkeep pitr push and fetch",
    ),
    rules=RULES,
)
@click.option("--until", metavar="LSN", help="End when the WAL up to this position is stored.")
@no_receive_options
@connection_options
@target_option
@dir_option
def command(
    *, until: str | None, database: str | None, no_receive: NoReceive | None, **common: str | None
) -> None:
    """Receive the WAL of a cluster and store it, until the command is stopped.

    pg_receivewal receives it with pgkeep's replication slot. Each segment is stored in the
    directory and in the bucket, and the unfinished one every BACKUP_WAL_MAX_LAG.
    """
    config = load_config(**common)
    position = _position(until)
    encryption = config.encryption()
    endpoint = config.endpoint(database)
    out = output.current()
    if no_receive is not None:
        no_receive.run(config, endpoint, encryption, _notify)
        return
    with endpoint.connect() as connection:
        facts = service.facts_of(connection, config)
        name = slot.slot_name(ServerState(connection).system_identifier)
        if slot.state(connection, name) is None:
            raise e.Refused(
                f"replication slot {name} does not exist: WAL could be lost unnoticed",
                hint="Begin with: pgkeep pitr enable.",
            )
    stream = service.stream_of(config, endpoint, facts, encryption, out.warning)

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        stream.stop()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
    _notify("READY=1")
    out.info(f"receiving the WAL of cluster {facts.system_identifier}")
    stream.run(lambda: position is not None and _reached(stream.health.position, position))
    stored = "nothing" if stream.health.position is None else f"up to {stream.health.position}"
    out.done(f"stored {stored}")


def _position(text: str | None) -> Lsn | None:
    if text is None:
        return None
    try:
        return Lsn.parse(text)
    except ValueError as error:
        raise e.UsageError(f"--until: {error}") from error


def _reached(position: Lsn | None, wanted: Lsn) -> bool:
    return position is not None and position >= wanted


def _notify(text: str) -> None:
    """Tell systemd (sd_notify) that the service is ready."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(text.encode(), address.replace("@", "\0", 1))
