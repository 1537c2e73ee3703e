"""pgkeep serve."""

import click

from .. import errors as e
from ..monitor import status
from . import directories, output
from .command import pgkeep_command
from .common import check_extra, dir_option, load_configs, target_option
from .contents import target_of
from .status import state_of
from .web import LOOPBACK, Address, Cached, NewProblems, cache_seconds, parse_address, serve

PORT = 9648
TOKEN = "BACKUP_SERVE_TOKEN"  # noqa: S105 - the variable


@pgkeep_command(
    "serve",
    examples=(
        "pgkeep serve                              # on 127.0.0.1:9648",
        "ssh -L 9648:127.0.0.1:9648 backup-host    # to view it from another machine",
        "export BACKUP_SERVE_TOKEN=$(openssl rand -hex 16)",
        "pgkeep serve --listen=0.0.0.0:9648",
    ),
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default=f"{LOOPBACK}:{PORT}",
    show_default=True,
    callback=parse_address,
    help="Address and port to listen on.",
)
@target_option
@dir_option
def command(*, listen: Address, target: str | None, directory: str | None) -> None:
    """Show the status of all backups on a web page, until stopped.

    The page has every database with its newest backup, its recovery time, calendar, timeline,
    drills and pending copies. /metrics is for Prometheus, /status.json for monitoring systems
    (503 where pgkeep status would fail), /healthz for probes. The page is read-only, and backups
    cannot be downloaded.

    Only this machine can reach it, unless --listen opens another address; that requires
    BACKUP_SERVE_TOKEN. Browsers ask for it as a password (with any user name), programs send it as
    a bearer token.
    """
    check_extra("serve", "flask", "jinja2", "prometheus_client", "waitress")
    from .application import application  # noqa: PLC0415 - an extra

    configs = load_configs(target=target, directory=directory)
    directories.check(configs)
    tokens = {config.settings.serve_token for config in configs}
    if len(tokens) > 1:
        raise e.UsageError(f"{TOKEN} is not the same for all targets")
    (token,) = tokens
    if token is None and not listen.loopback:
        raise e.UsageError(
            f"{listen} can be reached from other machines, and {TOKEN} is not set",
            hint=f"export {TOKEN}=$(openssl rand -hex 16)",
        )
    out = output.current()
    problems_printed = NewProblems(out)

    def read() -> status.State:
        state = state_of(configs)
        problems_printed.warn(state.problems + state.unreadable)
        return state

    cached = Cached(read, cache_seconds(target_of(config) for config in configs))
    serve(application(cached, token, listen.host), listen, "/", out)
