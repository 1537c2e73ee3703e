"""What a command that changes something leaves in the stores: a record of its run, and the summary.

All of it fails open: the command has done its work, or has failed for a reason of its own.
"""

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

import click
import msgspec
from click.core import ParameterSource

from .. import __version__
from .. import errors as e
from ..catalog import records
from ..catalog.catalog import Catalog
from ..config import Config
from ..interrupts import Interrupted
from ..model import record
from ..model.record import DatabaseResult, Record, RecordName
from ..monitor import notify
from ..stores.store import Store
from . import output, run_log
from .background import BackgroundTask
from .common import configured_stores
from .redaction import secrets_of
from .run_log import RunLog, TargetOutcome
from .user import login_name, user_name

FINISHING = 30.0  # seconds for all stores
RECORDING = 5.0  # for the record alone
AFTER_SIGNAL = 2.0
# Commands that only read a store: its credentials may not allow more.
_READING = frozenset({"restore", "swap", "undo"})
_PRUNING = frozenset({"backup", "prune"})
# Exit codes of runs that have not changed a store.
_UNCHANGED = frozenset(
    kind.exit_code for kind in (e.UsageError, e.ConnectionFailed, e.Refused, e.AlreadyRunning)
)
# Options whose texts are recorded; of others only that they were given.
_RECORDED = frozenset({
    "--as", "--backup", "--database", "--dir", "--reason", "--skip", "--table", "--target",
    "--target-db",
})  # fmt: skip


@contextlib.contextmanager
def recorded(context: click.Context) -> Iterator[None]:
    """Record how the command in this block ends."""
    log = run_log.current()
    try:
        yield
    except BaseException as error:
        _finish(context, log, error)
        raise
    _finish(context, log, None)


def ending(error: BaseException | None) -> e.PgkeepError | None:
    """Return the error that the command will report."""
    match error:
        case None | e.PgkeepError():
            return error
        case Interrupted():
            return error.ended()
        case click.ClickException():
            return e.UsageError(error.format_message().rstrip("."))
        case click.Abort():
            return e.Refused("cancelled")
        case _:
            return e.PgkeepError(f"{type(error).__name__}: {error}")


def _finish(context: click.Context, log: RunLog, error: BaseException | None) -> None:
    """Write the record into all stores, then what depends on their contents."""
    command = _command(context)
    written: dict[str, list[tuple[RecordName, Record]]] = {}
    found: dict[str, Store] = {}
    for config in log.configs:
        made = _record(context, log, config, ending(error))
        entry = (record.name_of(made, secrets.randbits(32)), made)  # the same in all stores
        for store in configured_stores(config):
            found[store.url] = store
            written.setdefault(store.url, []).append(entry)
    upkeep = command not in _READING and not isinstance(error, Interrupted)
    tasks = [
        BackgroundTask(url, partial(_write, found[url], command, named, upkeep=upkeep))
        for url, named in written.items()
    ]
    seconds = FINISHING if upkeep and error is None else RECORDING
    deadline = time.monotonic() + (AFTER_SIGNAL if isinstance(error, Interrupted) else seconds)
    out = output.current()
    for task in tasks:
        problem = task.problem(deadline)
        # A command that has failed has often met the same problem, and reports it.
        if problem is not None and (error is None or out.verbosity == output.Verbosity.VERBOSE):
            say = out.info if command in _READING else out.warning
            say(f"the run is not recorded in {problem}")


def _write(
    store: Store, command: str, made: Sequence[tuple[RecordName, Record]], *, upkeep: bool
) -> str | None:
    """Write records; then, if the run changed something, bring the store up to date.

    An identity that is only allowed to write cannot do the latter, and does not have to.
    """
    try:
        for name, written in made:
            records.write(store, name, written)
    except e.AccessDenied as error:
        return error.message if command not in _READING else "it is read-only"
    if not upkeep or all(name.exit_code in _UNCHANGED for name, _ in made):
        return None
    with contextlib.suppress(e.StoreError):
        now = datetime.now(UTC)
        if store.remote:
            catalog = Catalog(store).read()
            catalog.write_summary()
            names = catalog.records
        else:
            names = record.names(item.name for item in store.items())
        if command in _PRUNING:
            records.remove_expired(store, names, now)
    return None


def _record(
    context: click.Context, log: RunLog, config: Config, error: e.PgkeepError | None
) -> Record:
    hide = partial(notify.redact, secrets=secrets_of([config]))
    outcome = log.outcome_of(config) or TargetOutcome(error=error)
    failure = outcome.error
    if failure is None and len(log.configs) == 1:
        failure = error
    code, message = (0, None) if failure is None else (failure.exit_code, hide(failure.message))
    results = [_hidden(result, hide) for result in outcome.results]
    if len(results) == 1 and failure is not outcome.error:  # it failed after this was noted
        results = [msgspec.structs.replace(results[0], exit_code=code, error=message)]
    return Record(
        command=_command(context),
        options=[hide(text) for text in _options(context)],
        pgkeep=__version__,
        user=user_name(),
        login=login_name(),
        host=socket.gethostname(),
        client=next(iter(os.environ.get("SSH_CONNECTION", "").split()), None),
        target=config.target,
        cluster=outcome.cluster or config.settings.cluster,
        type=outcome.type,
        started=log.started,
        finished=datetime.now(UTC),
        exit_code=code,
        error=message,
        results=results,
        removed=list(outcome.removed),
    )


def _command(context: click.Context) -> str:
    """Return the name of a command as records have it: key-check for `pgkeep key check`."""
    return "-".join(context.command_path.split()[1:])


def _hidden(result: DatabaseResult, hide: Callable[[str], str]) -> DatabaseResult:
    error = None if result.error is None else hide(result.error)
    return msgspec.structs.replace(result, error=error)


def _options(context: click.Context) -> Iterator[str]:
    """Yield the arguments and options that were given, without texts that can be secret."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            value = context.params.get(name)
            values: Iterable[object] = value if isinstance(value, tuple) else [value]
            yield from (_shown(parameter, each) for each in values)


def _shown(parameter: click.Parameter, value: object) -> str:
    if not isinstance(parameter, click.Option):
        return str(value)
    long = max(parameter.opts, key=len)
    if parameter.is_flag:
        return long if value or not parameter.secondary_opts else parameter.secondary_opts[0]
    harmless = (click.Choice, click.types.IntParamType, click.types.FloatParamType)
    if long in _RECORDED or isinstance(parameter.type, harmless):
        return f"{long}={value}"
    return f"{long}=..."
