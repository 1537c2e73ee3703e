"""pgkeep serve."""

import click

from .. import errors as e
from ..monitor import status
from . import output
from .command import pgkeep_command
from .common import check_extra, dir_option, load_configs, target_option
from .contents import target_of
from .status import state_of
from .web import LOOPBACK, Address, Fresh, Once, kept, parse_address, serve

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
    help="Where to listen.",
)
@target_option
@dir_option
def command(*, listen: Address, target: str | None, directory: str | None) -> None:
    """Show on a web page what `pgkeep status` and `pgkeep list` know; until ended.

    Databases, from when and how fast each can be restored, calendar, timeline, drills, pending
    copies; /metrics for Prometheus, /status.json for monitors (503 where pgkeep status would not be
    0), /healthz. Nothing can be changed or downloaded there.

    Only this machine can reach it unless --listen says otherwise, which needs BACKUP_SERVE_TOKEN:
    browsers ask for it as a password (any user name), programs send it as a bearer token.
    """
    check_extra("serve", "flask", "jinja2", "prometheus_client", "waitress")
    from .application import application  # noqa: PLC0415 - an extra

    configs = load_configs(target=target, directory=directory)
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
    warned = Once(out)

    def read() -> status.State:
        state = state_of(configs)
        warned.warn(state.problems + state.unreadable)
        return state

    fresh = Fresh(read, kept(target_of(config) for config in configs))
    serve(application(fresh, token, listen.host), listen, "/", out)
