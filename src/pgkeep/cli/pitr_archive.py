"""What pgkeep pitr push, fetch and stream --no-receive share."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..config import Config
from ..crypt.options import Encryption
from ..pitr.archive_service import ArchiveService, ServiceOptions, facts_for
from ..pitr.stream_state import StreamState
from ..postgres.connection import Endpoint
from . import output
from .rules import AtMostOne, Requires, Rule
from .service_manager import ServiceManager, end_by_signals

NO_RECEIVE = "--no-receive"
_WITH_IT = ("--cluster", "--socket", "--socket-group")
RULES: Sequence[Rule] = (
    AtMostOne((NO_RECEIVE, "--until")),
    AtMostOne((NO_RECEIVE, "--listen")),
    *(Requires(option, (NO_RECEIVE,)) for option in _WITH_IT),
)


class NoReceive(NamedTuple):
    """The options of a service that does not receive."""

    cluster: str | None
    socket: str | None
    group: str | None

    def run(self, config: Config, endpoint: Endpoint, encryption: Encryption) -> None:
        """Answer pgkeep pitr push and fetch until a signal ends the command."""
        out = output.current()
        facts = facts_for(config, endpoint, self.cluster)
        socket = None if self.socket is None else Path(self.socket)
        options = ServiceOptions(socket=socket, group=self.group)
        service = ArchiveService(config, facts, encryption, options, out.warning)

        end_by_signals(service.stop)

        manager = ServiceManager()

        def ready() -> None:
            out.info(f"archive of cluster {facts.system_identifier} at {service.socket}")

        def polled() -> None:
            state = service.state()
            manager.report("; ".join(state.problems) or _stored(state), ready=True)

        service.run(ready, polled)
        out.done(_stored(service.state()))


def _stored(state: StreamState) -> str:
    return "stored nothing" if state.position is None else f"stored up to {state.position}"


def no_receive_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a service that does not receive, as one parameter."""

    @click.option(
        NO_RECEIVE, is_flag=True, help="Store what pgkeep pitr push sends, and answer fetch."
    )
    @click.option(
        "--cluster", metavar="IDENTIFIER", help="With --no-receive: the cluster to archive."
    )
    @socket_option("With --no-receive: where to listen")
    @click.option(
        "--socket-group",
        metavar="GROUP",
        help="With --no-receive: a group of the system that can use the socket too.",
    )
    @functools.wraps(function)
    def wrapped(
        *, no_receive: bool, cluster: str | None, socket: str | None, socket_group: str | None,
        **others: Any,
    ) -> Any:  # fmt: skip
        chosen = NoReceive(cluster, socket, socket_group) if no_receive else None
        return function(no_receive=chosen, **others)

    return wrapped


def socket_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option for the socket."""
    return click.option(
        "--socket",
        metavar="PATH",
        help=f"{what}. Without it, archive.sock in BACKUP_SPOOL_DIR.",
    )


def timeout_option(verb: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option for the longest time."""
    return click.option(
        "--timeout",
        metavar="SECONDS",
        default="300",
        show_default=True,
        help=f"Maximum time for {verb} to end.",
    )
