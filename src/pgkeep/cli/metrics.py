"""pgkeep metrics."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import click

from .. import config
from .. import errors as e
from ..monitor import attempts, cluster_metrics, metrics, overview, pgbackrest
from . import output
from .clusters import clusters_of, goals_of
from .command import pgkeep_command
from .common import check_extra, dir_option, load_configs, target_option
from .contents import contents_of, target_of
from .stanzas import stanzas_of
from .web import (
    LOOPBACK,
    Address,
    Cached,
    NewProblems,
    cache_seconds,
    is_own_host,
    parse_address,
    serve,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PORT = 9647
PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
UNREADABLE = "503 Service Unavailable", b"none of the stores can be read\n"


@pgkeep_command(
    "metrics",
    examples=(
        "pgkeep metrics",
        "pgkeep metrics --listen                   # on 127.0.0.1:9647",
        "pgkeep metrics --listen=0.0.0.0:9647 --dir=/backups",
    ),
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    is_flag=False,
    flag_value=f"{LOOPBACK}:{PORT}",
    callback=parse_address,
    help=f"Serve /metrics until stopped. Without a value: {LOOPBACK}:{PORT}.",
)
@target_option
@dir_option
def command(*, listen: Address | None, target: str | None, directory: str | None) -> None:
    """Print or serve metrics of the existing backups for Prometheus.

    The metrics come from the manifests and from the records of runs, which are read for each
    scrape (in a bucket at most once a minute). Everybody who can reach the port can read the names
    of databases. By default only this machine can.
    """
    check_extra("metrics", "prometheus_client", "waitress")
    configs = load_configs(target=target, directory=directory)
    if listen is not None:
        _listen(configs, listen)
        return
    read = _read(configs)
    for problem in read.problems:
        output.current().warning(problem)
    text = exposition(read.targets, read.contents, read.runs, read.clusters)
    if text is None:
        raise e.StoreError("none of the stores can be read")
    output.sql(text)


class _Read(NamedTuple):
    """What is read for one answer."""

    targets: list[overview.Target]
    contents: overview.Contents
    runs: attempts.Attempts
    clusters: list[metrics.Sample]
    problems: list[str]


def _read(configs: Sequence[config.Config]) -> _Read:
    targets = [target_of(found) for found in configs]
    contents, problems, unreadable, runs, _, having = contents_of(targets)
    problems = [*problems, *unreadable]
    samples: list[metrics.Sample] = []
    now = datetime.now(UTC)
    for found in configs:
        clusters, unread = clusters_of(found, having, now)
        samples += cluster_metrics.of_clusters(clusters, goals_of(found), now)
        samples += pgbackrest.samples(stanzas_of(found, now))
        problems += [problem for problem in unread if problem not in problems]
    return _Read(targets, contents, runs, samples, problems)


def exposition(
    targets: Sequence[overview.Target], contents: overview.Contents, runs: attempts.Attempts,
    clusters: Sequence[metrics.Sample] = (),
) -> bytes | None:  # fmt: skip
    """Return the text for Prometheus, or None if no store was read."""
    if not contents:
        return None
    now = datetime.now(UTC)
    samples = [
        sample
        for target in [attempts.with_tried(found, runs) for found in targets]
        for expected in [overview.expected(target, contents)]
        for sample in (
            *metrics.of_target(target, contents, expected, now),
            *attempts.samples(target, contents, runs, expected, now),
            *attempts.key_checks(target, contents, runs, expected),
        )
    ]
    return metrics.render([*samples, *metrics.ages(samples, now), *clusters])


def _listen(configs: Sequence[config.Config], address: Address) -> None:
    out = output.current()
    targets = [target_of(found) for found in configs]
    problems_printed = NewProblems(out)

    def read() -> bytes | None:
        found = _read(configs)
        problems_printed.warn(found.problems)
        return exposition(found.targets, found.contents, found.runs, found.clusters)

    text = Cached(read, cache_seconds(targets))

    def answer(environ: "WSGIEnvironment", start: "StartResponse") -> list[bytes]:
        # Another address was opened on purpose; on loopback, a browser can be made to ask.
        if address.loopback and not is_own_host(environ.get("HTTP_HOST", ""), address.host):
            status, body = "421 Misdirected Request", b"unknown host\n"
        elif environ["PATH_INFO"] != PATH:
            status, body = "404 Not Found", b"only /metrics is here\n"
        elif environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, body = "405 Method Not Allowed", b"only GET\n"
        else:
            found = text.get()
            status, body = ("200 OK", found) if found is not None else UNREADABLE
        start(status, [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(body)))])
        return [body]

    serve(answer, address, PATH, out)
