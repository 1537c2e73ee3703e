"""Prometheus and its companions: the real programs, on free ports."""

import contextlib
import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from tests.support import invoke
from tests.support.concurrency import until

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "build" / "tools"
RULES = ROOT / "monitoring" / "alerts.yml"
PATIENCE = 60  # seconds for anything that should happen within one or two

# Debian's Alertmanager has its templates in /usr/share, though it is only unpacked here.
WITH_ITS_SHARE = [
    "unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c",
    'mount --bind "$1" /usr/share; shift; exec "$@"', "sh",
    str(TOOLS / "prometheus-alertmanager" / "usr" / "share"),
]  # fmt: skip


class Program(NamedTuple):
    """The address and the process id of a running program."""

    address: str
    pid: int

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def get(self, path: str) -> str:
        """Return the body of an answer."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:  # noqa: S310
            return str(answer.read().decode())

    def api(self, path: str, **parameters: str) -> Any:
        """Return what Prometheus' API answers; anything but success fails the test."""
        found = json.loads(self.get(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))
        assert found["status"] == "success", found
        return found["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of each series that Prometheus finds now."""
        found = self.api("query", query=expression)
        assert found["resultType"] == "vector", found
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]


def settled(check: Callable[[], T]) -> T:
    """Repeat a check until it passes: a scrape may be late, or miss once."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


@contextlib.contextmanager
def _running(
    folder: Path, said: str, command: Sequence[str | Path], **options: Any
) -> Iterator[Program]:
    """Run a program until the end of the block; it chooses a port, and says which."""
    folder.mkdir()
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder,
            start_new_session=True, **options,
        )  # fmt: skip

    def listens() -> re.Match[str] | None:
        assert process.poll() is None, log.read_text()
        return re.search(said, log.read_text())

    try:
        found = until(listens, PATIENCE)
        assert found is not None
        yield Program(found[1], process.pid)
    finally:
        process.kill()
        process.wait()


def _packaged(
    folder: Path, package: str, *args: str, before: Sequence[str] = ()
) -> contextlib.AbstractContextManager[Program]:
    program = TOOLS / package / "usr" / "bin" / package
    listen = "--web.listen-address=127.0.0.1:0"
    return _running(
        folder, r'msg="Listening on" address=(\S+)', [*before, program, listen, *args]
    )  # fmt: skip


def node_exporter(folder: Path, textfiles: Path) -> contextlib.AbstractContextManager[Program]:
    """Serve the files of a directory, and nothing of the machine."""
    return _packaged(
        folder, "prometheus-node-exporter", "--collector.disable-defaults",
        "--collector.textfile", f"--collector.textfile.directory={textfiles}",
    )  # fmt: skip


def pushgateway(folder: Path) -> contextlib.AbstractContextManager[Program]:
    return _packaged(folder, "prometheus-pushgateway")


def listen(folder: Path, env: Mapping[str, str]) -> contextlib.AbstractContextManager[Program]:
    """Run `pgkeep metrics --listen`."""
    command = [invoke.PGKEEP, "metrics", "--listen=0"]
    return _running(folder, r"serving http://([^/]+)/metrics\n", command, env=dict(env))


@contextlib.contextmanager
def alertmanager(folder: Path, webhook: str) -> Iterator[Program]:
    """Tell everything at once, each alert by itself."""
    config = folder.with_suffix(".yml")
    route = {"receiver": "hook", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"}
    receiver = {"name": "hook", "webhook_configs": [{"url": webhook, "send_resolved": True}]}
    config.write_text(yaml.safe_dump({"route": route, "receivers": [receiver]}))
    with _packaged(
        folder, "prometheus-alertmanager", f"--config.file={config}", "--storage.path=data",
        "--cluster.listen-address=", before=WITH_ITS_SHARE,
    ) as program:  # fmt: skip
        yield program


@contextlib.contextmanager
def prometheus(
    folder: Path, scraped: Mapping[str, Program], alerts: Program | None = None
) -> Iterator[Program]:
    """Scrape these jobs and judge by our rules, all the time.

    What comes from the job `pushgateway` says itself of which job it is.
    """
    config = folder.with_suffix(".yml")
    document = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": job, "honor_labels": job == "pushgateway",
             "static_configs": [{"targets": [program.address]}]}
            for job, program in scraped.items()
        ],
    }  # fmt: skip
    if alerts is not None:
        managers = [{"static_configs": [{"targets": [alerts.address]}]}]
        document["alerting"] = {"alertmanagers": managers}
    config.write_text(yaml.safe_dump(document))
    with _packaged(
        folder, "prometheus", f"--config.file={config}", "--storage.tsdb.path=data"
    ) as program:
        yield program
