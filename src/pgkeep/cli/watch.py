"""What is told to others about a run: metrics, ping, webhook.

Here is decided that none of it is the run's business (fail-open): whatever goes wrong is a warning,
whoever does not answer is not waited for, and the exit code is what it would have been.
"""

import contextlib
import os
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from .. import config
from .. import errors as e
from ..backup import run
from ..backup.run_report import RunReport
from ..catalog import catalog
from ..monitor import metrics, notify, overview
from ..settings import SECRETS
from ..stores.store import Store
from . import output

READING = 30.0  # seconds for the stores
_SECRET_VARIABLES = ("PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
TELLING = 8.0  # seconds for everybody who is told, together


class Task:
    """Something that is done beside the run, and not waited for longer than it is worth.

    A daemon, for a thread that waits for a server must not hold up our end either.
    """

    def __init__(self, what: str, function: Callable[[], str | None]) -> None:
        self._what = what
        self._function = function
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name=what, daemon=True)
        self._thread.start()

    def problem(self, deadline: float) -> str | None:
        """Wait until a moment of the monotonic clock; return what went wrong, if anything did."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            return f"{self._what}: no answer in time"
        return self._problem

    def _run(self) -> None:
        try:
            said = self._function()
            self._problem = None if said is None else f"{self._what}: {said}"
        except e.PgkeepError as error:
            self._problem = f"{self._what}: {error.message}"
        except ModuleNotFoundError as error:
            self._problem = f"{self._what}: needs another package: {error.name}"
            if error.name == "prometheus_client":
                self._problem += " (pip install 'pgkeep[metrics]')"
        except Exception as error:  # noqa: BLE001 - of whatever kind, it is not the run's
            self._problem = f"{self._what}: {type(error).__name__}: {error}"


def target_of(one: config.Config) -> overview.Target:
    """Return where a configuration's backups lie, and which there should be."""
    policy = one.policy
    kept = {"daily": policy.daily, "weekly": policy.weekly, "monthly": policy.monthly}
    every = run.EVERY in one.settings.databases
    return overview.Target(
        store=one.store(),
        copy=one.copy(),
        named=() if every else one.settings.databases,
        connected=None if one.settings.databases else one.connected(),
        tiers=[tier for tier, length in kept.items() if length],
    )


class Read(NamedTuple):
    """What all stores hold, which of them could not be read in time, and which manifests not."""

    contents: overview.Contents
    problems: list[str]
    unreadable: list[str]


def contents_of(targets: Iterable[overview.Target]) -> Read:
    """Read all stores, all at once."""
    found: dict[str, Sequence[catalog.Backup]] = {}
    unreadable: list[str] = []
    stores = {store.url: store for target in targets for store in target.stores}
    tasks = [Task(url, partial(_read, store, found, unreadable)) for url, store in stores.items()]
    deadline = time.monotonic() + READING
    problems = [task.problem(deadline) for task in tasks]
    return Read(
        dict(found), [problem for problem in problems if problem is not None], list(unreadable)
    )


def _read(store: Store, found: dict[str, Sequence[catalog.Backup]], unreadable: list[str]) -> None:
    read = catalog.Catalog(store)
    backups = read.backups()
    unreadable += [f"{store.url}: {one}" for one in read.unreadable]
    found[store.url] = backups


class Ran(NamedTuple):
    """How the run of one target has ended."""

    config: config.Config
    started: datetime
    finished: datetime
    report: RunReport
    error: e.PgkeepError | None  # what ended it before it could report


class Watch:
    """One run of the command, from its beginning to whatever end."""

    def __init__(
        self, configs: Sequence[config.Config], kind: str, out: output.Output, *, partial: bool
    ) -> None:
        self._configs = configs
        self._kind = kind
        self._out = out
        self._partial = partial  # whether the configuration has other targets
        self._ran: list[Ran] = []
        self._begun: tuple[config.Config, datetime] | None = None
        self._started = datetime.now(UTC)
        self._id = str(uuid.uuid4())
        self._secrets = _secrets(configs)
        self._pings: dict[str, Task] = {}

    def begin(self, one: config.Config) -> None:
        """Note that a target's turn has come."""
        self._begun = one, datetime.now(UTC)

    def end(self, report: RunReport, error: e.PgkeepError | None = None) -> None:
        """Note how its run has ended."""
        if self._begun is not None:
            self._ran.append(Ran(*self._begun, datetime.now(UTC), report, error))
        self._begun = None

    def __enter__(self) -> Self:
        for url in dict.fromkeys(one.settings.ping_url for one in self._configs):
            if url is not None:
                ping = partial(notify.ping, url, "start", self._id, TELLING)
                self._pings[url] = Task("BACKUP_PING_URL", ping)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ending = _ending(error)
        if ending is not None:
            self.end(RunReport(), ending)
        tasks = self._metrics()
        tasks += [
            Task(
                "BACKUP_PING_URL", partial(self._ping, url, self._outcome("ping_url", url, ending))
            )
            for url in self._pings
        ]
        for url in dict.fromkeys(one.settings.webhook for one in self._configs):
            if url is not None:
                message = self._message(url, self._outcome("webhook", url, ending))
                tasks.append(Task("BACKUP_WEBHOOK", partial(notify.post, url, message, TELLING)))
        self._wait_for([*self._pings.values(), *tasks])

    def tell_stores(self) -> None:
        """Write and push what the stores tell now, where it was no backup that has changed it."""
        self._wait_for(self._metrics())

    def _wait_for(self, tasks: Sequence[Task]) -> None:
        deadline = time.monotonic() + TELLING
        problems = [task.problem(deadline) for task in tasks]
        for problem in dict.fromkeys(filter(None, problems)):
            self._out.warning(notify.redact(problem, self._secrets))

    def _outcome(
        self, setting: str, url: str, ending: e.PgkeepError | None
    ) -> e.PgkeepError | None:
        """Return how it has ended for the targets that tell it there."""
        told = [one for one in self._configs if getattr(one, setting) == url]
        if len(told) == len(self._configs):
            return ending
        reports: list[RunReport] = []
        for ran in (self._ran_of(one) for one in told):
            if ran is None:
                return ending
            if ran.error is not None:
                return ran.error
            reports.append(ran.report)
        return RunReport.combined(reports).failure()

    def _ran_of(self, one: config.Config) -> Ran | None:
        return next((ran for ran in self._ran if ran.config is one), None)

    def _ping(self, url: str, error: e.PgkeepError | None) -> None:
        """Tell the end after the beginning, or it would be taken for the next run's."""
        self._pings[url].problem(time.monotonic() + TELLING)
        if error is None:
            notify.ping(url, "", self._id, TELLING)
            return
        lines = [*self._out.tail, f"error: {error.message}"]
        lines += [f"hint: {error.hint}"] if error.hint else []
        log = notify.redact("\n".join(lines), self._secrets)[-notify.LONGEST + 100 :]
        notify.ping(url, "fail", self._id, TELLING, f"exit code {error.exit_code}\n{log}\n")

    def _message(self, url: str, error: e.PgkeepError | None) -> notify.Message:
        databases = [
            database
            for ran in self._ran
            if ran.config.settings.webhook == url
            for database in self._databases(ran.config.target, ran.report)
        ]
        return notify.Message(
            event="backup",
            run=self._id,
            type=self._kind,
            ok=error is None,
            exit_code=0 if error is None else error.exit_code,
            error=None if error is None else self._redacted(error.message),
            hint=None if error is None or error.hint is None else self._redacted(error.hint),
            started=self._started,
            finished=datetime.now(UTC),
            databases=databases,
        )

    def _databases(self, target: str | None, report: RunReport) -> list[notify.Ended]:
        made = [
            notify.Ended(
                database=backup.database.name,
                target=target,
                ok=True,
                exit_code=0,
                backup=backup.name.stem,
                size=backup.artifact.size,
                rows=backup.rows,
                verified=backup.verified is not None,
                copy_pending=bool(backup.pending),
                warnings=[self._redacted(text) for text in (*backup.warnings, *backup.drift)],
            )
            for backup in report.backups
        ]
        failed = [
            notify.Ended(
                database=one.database,
                target=target,
                ok=False,
                exit_code=one.exit_code,
                error=self._redacted(one.error),
            )
            for one in report.failed
        ]
        return made + failed

    def _redacted(self, text: str) -> str:
        return notify.redact(text, self._secrets)

    def _metrics(self) -> list[Task]:
        """Begin to write and push what the stores and the run tell, if that can be made out."""
        try:
            return self._begin_metrics()
        except Exception as error:  # noqa: BLE001 - of whatever kind, it is not the run's
            self._out.warning(f"metrics: {type(error).__name__}: {error}")
            return []

    def _begin_metrics(self) -> list[Task]:
        told = [
            one for one in self._configs if one.settings.metrics_file or one.settings.pushgateway
        ]
        if not told:
            return []
        targets = {one.target: target_of(one) for one in told}
        contents, problems, unreadable = contents_of(targets.values())
        for problem in (*problems, *unreadable):
            self._out.warning(problem)
        samples = {one.target: self._samples(one, targets[one.target], contents) for one in told}
        unread = [
            store.url
            for target in targets.values()
            for store in target.stores
            if store.url not in contents
        ]
        tasks = []
        for path in dict.fromkeys(one.settings.metrics_file for one in told):
            if path is not None:
                of_it = [
                    s
                    for one in told
                    if one.settings.metrics_file == path
                    for s in samples[one.target]
                ]
                now = datetime.now(UTC)
                write = partial(_write, path, of_it, unread, now, others=self._partial)
                tasks.append(Task("BACKUP_METRICS_FILE", write))
        for url in dict.fromkeys(one.settings.pushgateway for one in told):
            if url is not None:
                of_it = [
                    s
                    for one in told
                    if one.settings.pushgateway == url
                    for s in samples[one.target]
                ]
                tasks.append(Task("BACKUP_PUSHGATEWAY", partial(metrics.push, url, of_it, TELLING)))
        return tasks

    def _samples(
        self, one: config.Config, target: overview.Target, contents: overview.Contents
    ) -> list[metrics.Sample]:
        ran = self._ran_of(one)
        wanted = overview.expected(target, contents, None if ran is None else ran.report)
        samples = list(metrics.of_target(target, contents, wanted, datetime.now(UTC)))
        if ran is not None:
            outcome = metrics.Outcome(
                target=target, kind=self._kind, started=ran.started, finished=ran.finished,
                report=ran.report, error=ran.error,
            )  # fmt: skip
            samples += metrics.of_run(outcome, contents, wanted)
        return samples


def _write(
    path: Path,
    samples: Sequence[metrics.Sample],
    unread: Sequence[str],
    now: datetime,
    *,
    others: bool,
) -> str | None:
    left_out = metrics.write(path, samples, unread, now, others=others)
    if not left_out:
        return None
    return (
        f"{path} had metrics of {' and '.join(left_out)}, which are left out now: another"
        " configuration needs a file of its own"
    )


def _secrets(configs: Iterable[config.Config]) -> set[str]:
    """Return what must not be in anything that is sent."""
    found = {os.environ.get(name, "") for name in _SECRET_VARIABLES}
    for one in configs:
        found |= {value.text for name, value in one.values.items() if name in SECRETS}
        with contextlib.suppress(e.UsageError):  # which the run itself will tell
            found.add(one.endpoint().params.get("password", ""))
    return found | {urllib.parse.quote(one, safe="") for one in found}


def _ending(error: BaseException | None) -> e.PgkeepError | None:
    """Return the error that the command will tell."""
    if error is None or isinstance(error, e.PgkeepError):
        return error
    ended = getattr(error, "ended", None)  # of cli.Interrupted
    return e.PgkeepError(type(error).__name__) if ended is None else ended()
