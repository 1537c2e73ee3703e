"""Create a database, fill it, and put it in its place; a failure leaves nothing of it.

It is loaded under a temporary name and renamed when it is complete, so that a failure, or a
kill -9, never leaves half a database under the name that people use.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import psycopg

from .. import errors as e
from .. import interrupts
from ..postgres import databases
from ..progress import Progress
from . import database_settings, finished
from .fill import encoding, fill
from .load.options import Loaded
from .plan import Mode, in_place_instead
from .planning import at_once_warning
from .run import Run
from .swap import SwapResult
from .swap_plan import command


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was loaded, and where it is."""

    loaded: Loaded | None
    database: str
    swapped: SwapResult | None = None  # with the existing database
    old: str | None = None  # the former database, if it is kept


class NewDatabase:
    """The database that a plan creates."""

    def __init__(self, run: Run, sha256: str | None, progress: Progress) -> None:
        self._run = run
        self._plan = run.plan
        self._sha256 = sha256
        self._progress = progress

    def restore(self) -> Restored:
        """Restore the database.

        Raises:
            RestoreFailed: the target is as it was before.
            NotRenamed: everything is loaded, and can be swapped in later.

        """
        target, mode = self._plan.target, self._plan.mode
        if self._plan.at_once:
            return Restored(loaded=self._load_at_once(), database=target)
        with self._run.maintenance() as connection:
            temporary = databases.claim(connection, target)
            try:
                with self._created(temporary):
                    loaded = self._load_into(temporary)
                    if self._run.failed:
                        kept = finished.keep_incomplete(self._run, temporary)
                    elif mode == Mode.NEW:
                        finished.name(self._run, temporary)
                        kept = target
                    else:
                        kept = finished.keep(self._run, temporary)
            except e.ExtensionFailed as error:
                return Restored(loaded=self._load_after(error), database=target)
        if self._run.failed:
            raise self._incomplete(kept)
        if mode != Mode.SWAP:
            return Restored(loaded=loaded, database=kept)
        swapped = finished.put(self._run, kept, self._progress.step)
        old = swapped.old_database
        if old is not None and self._plan.options.discard_old and finished.discard(self._run, old):
            old = None
        return Restored(loaded=loaded, database=target, swapped=swapped, old=old)

    def _incomplete(self, kept: str) -> e.RestoreFailed:
        """Return the error that lists the objects that failed."""
        assert self._run.failed is not None  # noqa: S101 - something has failed
        return self._run.failed.error(kept, command(self._plan.target, kept))

    def _load_after(self, error: e.RestoreFailed) -> Loaded | None:
        """Load under the own name after an extension's script has failed under another one.

        Such as pg_cron, which can be created in one database only. The server's hint would name
        the temporary one.
        """
        target = self._plan.target
        if self._plan.mode != Mode.NEW:
            raise e.RestoreFailed(
                error.message,
                hint="If the extension depends on the name of its database: "
                + in_place_instead(target),
            ) from error
        try:
            loaded = self._load_at_once()
        except e.RestoreFailed as again:
            if again.message != error.message:
                raise
            raise e.RestoreFailed(
                error.message,
                hint=f"It cannot be created in database {target} on this server: see its"
                " settings, or restore under another name with --target-db.",
            ) from again
        self._run.warnings.append(at_once_warning(f"under a temporary name, {error.message}"))
        return loaded

    def _load_at_once(self) -> Loaded | None:
        target = self._plan.target
        with self._created(target):
            loaded = self._load_into(target)
        if self._run.failed:
            raise self._incomplete(finished.keep_incomplete(self._run, target))
        return loaded

    @contextlib.contextmanager
    def _created(self, name: str) -> Iterator[None]:
        """Create a database; after a failure it is dropped, unless everything is in it."""
        ours = name != self._plan.target  # nobody else makes a database of a temporary name
        try:
            with self._run.maintenance() as connection:
                facts = self._plan.meta.database if self._plan.meta else None
                if facts is not None and not self._plan.options.tablespaces:
                    facts = msgspec.structs.replace(facts, tablespace="pg_default")
                owner = database_settings.owner_of(self._run)
                databases.create(connection, name, facts, encoding(self._plan), owner)
            ours = True
            yield
        except finished.NotRenamed:
            raise
        except BaseException:
            if not ours:
                raise
            # By a new session: the failure may be that of the other one.
            with interrupts.held():
                databases.drop_subscriptions(self._plan.endpoint.to(name))
                with (
                    contextlib.suppress(psycopg.Error, e.PgkeepError),
                    self._run.maintenance() as connection,
                ):
                    databases.drop_unfinished(connection, name)
            raise

    def _load_into(self, name: str) -> Loaded | None:
        endpoint = self._plan.endpoint.to(name)
        loaded = fill(self._run, endpoint, self._sha256, self._progress)
        self._progress.step("finishing")
        # Connected anew: a session that was idle for hours may have been cut off.
        with self._run.maintenance() as connection:
            database_settings.apply(self._run, connection, name)
        return loaded
