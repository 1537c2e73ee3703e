"""pgkeep pitr stream."""

import click

from .. import errors as e
from ..model.cluster import short_form
from ..model.wal import Lsn
from ..pitr import service, slot
from ..pitr.stream import Stream
from . import output, receiver_page, web
from .command import pgkeep_command
from .common import check_extra, connection_options, dir_option, load_config, target_option
from .pitr_archive import RULES, NoReceive, no_receive_options
from .service_manager import ServiceManager, end_by_signals


@pgkeep_command(
    "stream",
    examples=(
        "pgkeep pitr stream",
        "pgkeep pitr stream --listen=9649          # /healthz and /metrics on 127.0.0.1:9649",
        "pgkeep pitr stream --until=0/5000000",
        "pgkeep pitr stream --no-receive           # for pgkeep pitr push and fetch",
    ),
    rules=RULES,
)
@click.option("--until", metavar="LSN", help="End when the WAL up to this position is stored.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=web.parse_address,
    help="Serve /healthz and /metrics of the receiver. Without a host: only for this machine.",
)
@no_receive_options
@connection_options
@target_option
@dir_option
def command(
    *, until: str | None, listen: web.Address | None, database: str | None,
    no_receive: NoReceive | None, **common: str | None,
) -> None:  # fmt: skip
    """Receive the WAL of a cluster and store it, until the command is stopped.

    pg_receivewal receives it with pgkeep's replication slot. Each segment is stored in the
    directory and in the bucket, and the unfinished one within BACKUP_WAL_MAX_LAG.

    /healthz answers 200 if the newest change is stored within BACKUP_WAL_MAX_LAG and no WAL is
    missing, else 503 with the reasons.
    """
    if listen is not None:
        check_extra("metrics", "waitress", "prometheus_client")
    config = load_config(**common)
    position = _position(until)
    encryption = config.encryption()
    endpoint = config.endpoint(database)
    out = output.current()
    if no_receive is not None:
        no_receive.run(config, endpoint, encryption)
        return
    with endpoint.connect() as connection:
        facts = service.facts_of(connection, config)
        name = slot.slot_name(facts.system_identifier)
        if slot.state(connection, name) is None:
            raise e.Refused(
                f"replication slot {name} does not exist: WAL could be lost unnoticed",
                hint="Begin with: pgkeep pitr enable.",
            )
    stream = service.stream_of(
        config, endpoint, facts, encryption, out.warning, awaited=position is not None
    )
    if listen is not None:
        label = config.settings.cluster or short_form(facts.system_identifier)
        max_lag = config.settings.wal_max_lag
        app = receiver_page.application(lambda: stream.report.state, max_lag, label, listen)
        web.start(app, listen, "/healthz", out)
    end_by_signals(stream.stop)
    out.info(f"receiving the WAL of cluster {facts.system_identifier}")
    manager = ServiceManager()
    stream.run(
        lambda: position is not None and _reached(stream.report.health.position, position),
        lambda: manager.report(_status(stream), ready=stream.report.health.receiving),
    )
    end = stream.report.health.position
    out.done("stored nothing" if end is None else f"stored up to {end}")


def _status(stream: Stream) -> str:
    problems = stream.report.health.problems
    return "; ".join(problems) or f"stored up to {stream.report.health.position}"


def _position(text: str | None) -> Lsn | None:
    if text is None:
        return None
    try:
        return Lsn.parse(text)
    except ValueError as error:
        raise e.UsageError(f"--until: {error}") from error


def _reached(position: Lsn | None, wanted: Lsn) -> bool:
    return position is not None and position >= wanted
