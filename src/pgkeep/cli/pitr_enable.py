"""pgkeep pitr enable."""

import threading
import time

import click

from .. import errors as e
from ..model.wal import Lsn
from ..pitr import service, slot
from ..pitr.stream import Stream
from ..progress import duration, size
from . import output
from .command import pgkeep_command
from .common import (  # fmt: skip
    connection_options,
    dir_option,
    jobs_option,
    json_option,
    load_config,
    print_json,
    target_option,
)


@pgkeep_command(
    "enable", examples=("pgkeep pitr enable", "pgkeep pitr enable --unlimited-slot --dsn=DSN")
)
@click.option(
    "--unlimited-slot",
    "unlimited",
    is_flag=True,
    help="Accept that WAL which nobody receives can fill the disk of the server.",
)
@connection_options
@target_option
@dir_option
@jobs_option
@json_option
def command(*, unlimited: bool, database: str | None, as_json: bool, **common: str | None) -> None:
    """Begin to store the WAL of a cluster, and take the first base backup.

    The server is checked first: each problem is printed with the line that fixes it. Then the
    replication slot is created, the WAL is received, and the base backup is taken, in this order,
    so that no second is missing. Afterwards pgkeep pitr stream must run all the time.
    """
    config = load_config(**common)
    encryption = config.encryption()
    endpoint = config.endpoint(database)
    out = output.current()
    with endpoint.connect() as connection:
        service.check(endpoint, connection, unlimited=unlimited)
        facts = service.facts_of(connection, config)
        name = slot.slot_name(facts.system_identifier)
        state = slot.state(connection, name)
        if state is not None and state.lost:
            slot.drop(connection, name)
            state = None
        if state is None:
            slot.create(connection, name)
        if state is not None and state.active:
            raise e.Refused(f"replication slot {name} is in use: pgkeep pitr stream is running")
        stream = service.stream_of(config, endpoint, facts, encryption, out.warning)
        errors: list[BaseException] = []

        def receive() -> None:
            try:
                stream.run()
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)

        receiver = threading.Thread(target=receive, name="receive", daemon=True)
        receiver.start()
        try:
            with out.progress(silent=as_json) as bar:
                made, _ = service.take_base(
                    config, endpoint, connection, encryption, bar, kind="full"
                )  # fmt: skip
                bar.step("storing WAL")
                _wait(stream, made.stop_lsn, receiver)
        finally:
            stream.stop()
            receiver.join()
    if errors:
        raise errors[0]
    if as_json:
        print_json(made)
    else:
        seconds = (made.stopped - made.started).total_seconds()
        output.note(f"base backup {made.name}: {size(made.size)} in {duration(seconds)}")
        output.note("Now run pgkeep pitr stream as a service: until then, WAL waits on the server.")
    since = made.stopped.astimezone()
    out.done(f"any second since {since:%Y-%m-%d %H:%M:%S%z} can be restored", as_json=as_json)


def _wait(stream: Stream, position: Lsn, receiver: threading.Thread) -> None:
    """Wait until the WAL of the base backup is stored."""
    while receiver.is_alive():
        stored = stream.health.position
        if stored is not None and stored >= position:
            return
        time.sleep(0.2)
