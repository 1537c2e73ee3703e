"""Notifications about a run: metrics, ping, webhook.

They fail open: a failure is a warning, nobody is waited for longer than some seconds, and the exit
code stays that of the run.
"""

import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from .. import errors as e
from ..backup.run_report import RunReport
from ..config import Config
from ..monitor import attempts, metrics, notify, overview
from ..run_id import run_id
from . import output, run_end
from .background import BackgroundTask
from .contents import contents_of, target_of
from .redaction import secrets_of

NOTIFYING = 8.0  # seconds for all notifications together


class TargetRun(NamedTuple):
    """How the run of one target ended."""

    config: Config
    started: datetime
    finished: datetime
    report: RunReport
    error: e.PgkeepError | None  # what ended it before it could report


class RunNotifier:
    """Sends notifications when a run of the command starts and ends, whatever its outcome."""

    def __init__(
        self, configs: Sequence[Config], kind: str, out: output.Output, *, partial: bool
    ) -> None:
        self._configs = configs
        self._kind = kind
        self._out = out
        self._partial = partial  # whether the configuration has other targets
        self._runs: list[TargetRun] = []
        self._begun: tuple[Config, datetime] | None = None
        self._started = datetime.now(UTC)
        # A ping requires a UUID; its first part is the id in the log and in pg_stat_activity.
        self._id = f"{run_id()}{str(uuid.uuid4())[8:]}"
        self._secrets = secrets_of(configs)
        self._pings: dict[str, BackgroundTask] = {}

    def begin(self, config: Config) -> None:
        """Note that the run of a target starts."""
        self._begun = config, datetime.now(UTC)

    def end(self, report: RunReport, error: e.PgkeepError | None = None) -> None:
        """Note how the run of the target ended."""
        if self._begun is not None:
            self._runs.append(TargetRun(*self._begun, datetime.now(UTC), report, error))
        self._begun = None

    def __enter__(self) -> Self:
        for url in dict.fromkeys(config.settings.ping_url for config in self._configs):
            if url is not None:
                ping = partial(notify.ping, url, "start", self._id, NOTIFYING)
                self._pings[url] = BackgroundTask("BACKUP_PING_URL", ping)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ending = run_end.ending(error)
        if ending is not None:
            self.end(RunReport(), ending)
        tasks = self._metrics()
        for url in self._pings:
            configs = [config for config in self._configs if config.settings.ping_url == url]
            ping = partial(self._ping, url, self._error_of(configs, ending))
            tasks.append(BackgroundTask("BACKUP_PING_URL", ping))
        for webhook in dict.fromkeys(config.settings.webhook for config in self._configs):
            if webhook is not None:
                configs = [config for config in self._configs if config.settings.webhook == webhook]
                message = self._message(webhook, self._error_of(configs, ending))
                post = partial(notify.post, webhook, message, NOTIFYING)
                tasks.append(BackgroundTask("BACKUP_WEBHOOK", post))
        self._wait_for([*self._pings.values(), *tasks])

    def update_metrics(self) -> None:
        """Write and push the metrics of the stores, after something other than a backup."""
        self._wait_for(self._metrics())

    def _wait_for(self, tasks: Sequence[BackgroundTask]) -> None:
        deadline = time.monotonic() + NOTIFYING
        problems = [task.problem(deadline) for task in tasks]
        for problem in dict.fromkeys(filter(None, problems)):
            self._out.warning(notify.redact(problem, self._secrets))

    def _error_of(
        self, configs: Sequence[Config], ending: e.PgkeepError | None
    ) -> e.PgkeepError | None:
        """Return the error with which the run of some targets ended, if any."""
        if len(configs) == len(self._configs):
            return ending
        reports: list[RunReport] = []
        for run in map(self._run_of, configs):
            if run is None:
                return ending
            if run.error is not None:
                return run.error
            reports.append(run.report)
        return RunReport.combined(reports).failure()

    def _run_of(self, config: Config) -> TargetRun | None:
        return next((run for run in self._runs if run.config is config), None)

    def _ping(self, url: str, error: e.PgkeepError | None) -> None:
        """Ping the end after the start, or it would be taken for the end of the next run."""
        self._pings[url].problem(time.monotonic() + NOTIFYING)
        if error is None:
            notify.ping(url, "", self._id, NOTIFYING)
            return
        lines = [*self._out.tail, f"error: {error.message}"]
        lines += [f"hint: {error.hint}"] if error.hint else []
        log = notify.redact("\n".join(lines), self._secrets)[-notify.LONGEST + 100 :]
        notify.ping(url, "fail", self._id, NOTIFYING, f"exit code {error.exit_code}\n{log}\n")

    def _message(self, url: str, error: e.PgkeepError | None) -> notify.Message:
        databases = [
            database
            for run in self._runs
            if run.config.settings.webhook == url
            for database in self._databases(run.config, run.report)
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

    def _databases(self, config: Config, report: RunReport) -> list[notify.Ended]:
        known = [config.settings.cluster, *(backup.cluster_name for backup in report.backups)]
        made = [
            notify.Ended(
                database=backup.database.name,
                cluster=backup.cluster_name or None,
                target=config.target,
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
                database=failure.database,
                cluster=next(filter(None, known), None),
                target=config.target,
                ok=False,
                exit_code=failure.exit_code,
                error=self._redacted(failure.error),
            )
            for failure in report.failed
        ]
        return made + failed

    def _redacted(self, text: str) -> str:
        return notify.redact(text, self._secrets)

    def _metrics(self) -> list[BackgroundTask]:
        """Start to write and push the metrics of the stores and of the run."""
        try:
            return self._begin_metrics()
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
            self._out.warning(f"metrics: {type(error).__name__}: {error}")
            return []

    def _begin_metrics(self) -> list[BackgroundTask]:
        configs = [
            config
            for config in self._configs
            if config.settings.metrics_file or config.settings.pushgateway
        ]
        if not configs:
            return []
        targets = {config.target: target_of(config) for config in configs}
        contents, problems, unreadable, runs, *_ = contents_of(targets.values())
        for problem in (*problems, *unreadable):
            self._out.warning(problem)
        unread = [
            store.url
            for target in targets.values()
            for store in target.stores
            if store.url not in contents
        ]
        files: dict[Path, list[metrics.Sample]] = {}
        gateways: dict[str, list[metrics.Sample]] = {}
        for config in configs:
            samples = self._samples(config, targets[config.target], contents, runs)
            if (path := config.settings.metrics_file) is not None:
                files.setdefault(path, []).extend(samples)
            if (url := config.settings.pushgateway) is not None:
                gateways.setdefault(url, []).extend(samples)
        now = datetime.now(UTC)
        writes = (
            partial(_write, path, samples, unread, now, others=self._partial)
            for path, samples in files.items()
        )
        pushes = (
            partial(metrics.push, url, samples, NOTIFYING) for url, samples in gateways.items()
        )
        return [
            *(BackgroundTask("BACKUP_METRICS_FILE", write) for write in writes),
            *(BackgroundTask("BACKUP_PUSHGATEWAY", push) for push in pushes),
        ]

    def _samples(
        self,
        config: Config,
        target: overview.Target,
        contents: overview.Contents,
        runs: attempts.Attempts,
    ) -> list[metrics.Sample]:
        run = self._run_of(config)
        expected = overview.expected(target, contents, None if run is None else run.report)
        samples = list(metrics.of_target(target, contents, expected, datetime.now(UTC)))
        samples += attempts.key_checks(target, contents, runs, expected)
        if run is not None:
            outcome = metrics.FinishedRun(
                target=target, kind=self._kind, started=run.started, finished=run.finished,
                report=run.report, error=run.error,
            )  # fmt: skip
            samples += metrics.of_run(outcome, contents, expected)
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
        " configuration requires a file of its own"
    )
