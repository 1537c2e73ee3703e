"""`pgkeep pitr stream --no-receive`: stores what PostgreSQL pushes, and gives it back."""

import functools
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .. import errors as e
from ..config import Config
from ..crypt.options import Encryption
from ..model.wal import Lsn
from ..postgres.connection import Endpoint
from . import service, stream_state
from .archive_client import SOCKET_NAME
from .archive_fetch import Fetcher, Source
from .archive_push import Copier, Destination, Pusher
from .archive_server import ArchiveServer, listening
from .location import (
    ClusterFacts,
    Location,
    clusters_in,
    is_registered,
    locations,
    only,
    places,
    register_at,
    spool_of,
)
from .stream_state import StoreProgress, StreamState
from .wal_file import Origin

STATE_EVERY = 5.0  # seconds between two states


def facts_for(config: Config, endpoint: Endpoint, identifier: str | None) -> ClusterFacts:
    """Return the cluster: that of an identifier, else of the server, else the only one archived.

    Raises:
        Refused: it cannot be determined.
        ConnectionFailed: no cluster is archived, and the server does not answer.
        StoreError: no store can be read.

    """
    failed: list[e.PgkeepError] = []
    if identifier is None:
        try:
            with endpoint.connect() as connection:
                return service.facts_of(connection, config)
        except e.ConnectionFailed as error:
            failed.append(error)
    found: list[Location] = []
    for place in places(config):
        try:
            found += clusters_in(config, place)
        except e.StoreError as error:  # the other one is enough to begin
            failed.append(error)
    if not found and failed:
        raise failed[-1]
    return only(found, identifier)[0].facts


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """Where to listen, and for whom."""

    socket: Path | None = None
    group: str | None = None


class ArchiveService:
    """The service of one cluster."""

    def __init__(
        self, config: Config, facts: ClusterFacts, encryption: Encryption,
        options: ServiceOptions, tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Store the parameters; `tell` reports failures to people."""
        self._config = config
        self._facts = facts
        self._options = options
        self._spool = spool_of(config, facts.system_identifier)
        self.socket = options.socket or self._spool.parent / SOCKET_NAME
        self._stop = threading.Event()
        self._tell = tell
        origin = Origin(facts.system_identifier, facts.segment_size)
        found = locations(config, facts)
        required = found if config.settings.require_copy else found[:1]
        self._copiers = [
            Copier(found[0].wal, place.wal, origin, self._preparation(place))
            for place in found[len(required) :]
        ]
        self._pusher = Pusher(
            [
                Destination(place.archive(encryption), self._preparation(place))
                for place in required
            ],
            self._copiers,
            origin,
        )
        sources = [
            Source(place.archive(encryption), functools.partial(_check_registered, config, place))
            for place in found
        ]
        self._fetcher = Fetcher(sources, self._spool / "fetch", origin)
        self._copied: dict[str, Lsn | None] = {}  # up to where another store has everything

    def stop(self) -> None:
        """End `run` soon."""
        self._stop.set()

    def run(self, ready: Callable[[], None], polled: Callable[[], None]) -> None:
        """Answer clients until `stop`; call `ready` once, and `polled` after each state.

        Raises:
            AlreadyRunning: another service has the socket.
            StoreError: the socket cannot be created.

        """
        server = ArchiveServer(
            self._pusher, self._fetcher, self._facts.system_identifier, self._tell
        )
        with listening(self.socket, self._options.group) as listener:
            for copier in self._copiers:
                threading.Thread(target=copier.run, name="copy", daemon=True).start()
            serving = threading.Thread(
                target=server.serve, args=(listener, self._stop.is_set), name="serve", daemon=True
            )
            serving.start()
            ready()
            while serving.is_alive():
                self._write()
                polled()
                self._stop.wait(STATE_EVERY)
                if self._stop.is_set():
                    serving.join()
        self._fetcher.close()
        for copier in self._copiers:
            copier.stop()  # the next service goes on
        self._write()

    def _preparation(self, place: Location) -> Callable[[], None]:
        return functools.partial(_prepare, self._config, place)

    def state(self) -> StreamState:
        """Return the state for other commands on this host."""
        pusher, copiers = self._pusher, self._copiers
        end = pusher.end
        stores = [
            StoreProgress(
                url=destination.archive.store.url,
                position=_text(end),
                error=_message(destination.error),
            )
            for destination in pusher.required
        ]
        for copier in copiers:
            if copier.complete:
                self._copied[copier.target.url] = end
            copied = self._copied.get(copier.target.url)
            stores.append(
                StoreProgress(
                    url=copier.target.url, position=_text(copied), error=_message(copier.error)
                )
            )
        positions = [end, *(self._copied.get(copier.target.url) for copier in copiers)]
        position = None if None in positions else min(filter(None, positions), default=None)
        times = [time for reached, time in list(pusher.ends) if position and reached <= position]
        return StreamState(
            pid=os.getpid(),
            written_at=datetime.now(UTC),
            system_identifier=self._facts.system_identifier,
            receiving=False,
            position=_text(position),
            stores=stores,
            complete_until=times[-1] if times else None,
            timeline=pusher.timeline,
            waiting=max((copier.waiting for copier in copiers), default=0),
            problems=[store.error for store in stores if store.error is not None],
        )

    def _write(self) -> None:
        with suppress(OSError):  # its time tells that it is old
            self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            stream_state.write(stream_state.path_in(self._spool), self.state())


def _prepare(config: Config, place: Location) -> None:
    """Record the cluster, and make names durable that a killed run has left.

    Raises:
        StoreError: it is not possible.

    """
    register_at(config, place)
    place.wal.sync()


def _check_registered(config: Config, place: Location) -> None:
    """Check that an archive is there: that of a lost mount is empty, and not at its end.

    Raises:
        StoreError: it is not.

    """
    if not is_registered(config, place):
        raise e.StoreError(
            f"{place.url} does not have the WAL archive of cluster {place.facts.system_identifier}",
            hint="Check that the directory is mounted, and that nobody removed files.",
        )


def _text(position: Lsn | None) -> str | None:
    return None if position is None else str(position)


def _message(error: e.PgkeepError | None) -> str | None:
    return None if error is None else error.message
