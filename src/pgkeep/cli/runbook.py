"""pgkeep runbook."""

import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from .. import __version__, progress, runbook
from .. import errors as e
from ..catalog import catalog
from ..catalog.catalog import ListedBackup
from ..catalog.encryption import encryption_facts
from ..config import Config
from ..model.manifest import Encryption, Manifest
from ..pitr import location
from ..scaffold import places
from ..settings import BUCKET, SECRETS, SETTINGS, Group
from ..terminal import printable
from . import output, output_file
from .command import pgkeep_command
from .common import catalogs, complete_files, dir_option, load_config, target_option

SHOWN = 3  # newest backups of each database
_NONE = (
    "**No backups yet.** Names of backups in the blocks below are examples. Make a backup, and"
    " print this again."
)
_SEVERAL = (
    "For another database, set `PGDATABASE` to its name in step 2 of First steps. Together with"
    " `--backup=ID`, leave out `--database`."
)
_FIRST = ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pgkeep_command(
    "runbook",
    examples=(
        "pgkeep runbook --output=runbook.md",
        "pgkeep runbook --target=shop --database=shop | lpr",
        "pgkeep runbook --dir=s3://bucket/backups",
    ),
)
@click.option("--database", metavar="NAME", help="Database of the examples.")
@click.option(
    "--output",
    "file",
    metavar="FILE",
    shell_complete=complete_files,
    help="Write it into this file. An existing file is replaced.",
)
@target_option
@dir_option
def command(
    *, database: str | None, file: str | None, target: str | None, directory: str | None
) -> None:
    """Print the recovery runbook with the real host, databases, bucket and newest backups.

    Keep it on paper, or where it can be read if this machine is lost. It is plain Markdown, 80
    columns wide, and contains no password and no key. No server is required. The text is that of
    docs/operations/database-recovery.md in the files of `pgkeep init`.
    """
    config = load_config(target=target, directory=directory)
    try:
        backups = [
            found for found in catalog.together(catalogs(config))
            if not found.missing and found.manifest.full
        ]  # fmt: skip
    except (e.StoreError, e.UsageError) as error:  # such as a directory that no backup has made
        output.current().warning(f"the runbook names no backups: {error.message}")
        backups = []
    text = _template().read_text("utf-8")
    lines = runbook.render(text, _values(config, backups, _database(config, backups, database)))
    if file is None:
        output.show(lines)
        return
    path = Path(file)
    text = "\n".join(map(printable, lines)) + "\n"
    output_file.write(path, text.encode("utf-8", "surrogateescape"))
    output.current().done(f"{path}: {len(lines)} lines")


def _template() -> Path:
    (project,) = places.template().glob("{{*}}")
    return project / runbook.PATH


def _database(config: Config, backups: Sequence[ListedBackup], given: str | None) -> str:
    """Return the database of the examples: given, configured, or the first that has backups."""
    names = list(config.settings.databases.names)
    connected = config.connected() or os.environ.get("PGDATABASE")
    backed_up = sorted({backup.manifest.database.name for backup in backups})
    wanted = [name for name in (given, connected, *names) if name]
    known = [name for name in wanted if name in backed_up]
    return ((given and [given]) or known or backed_up or wanted or ["postgres"])[0]


def _values(config: Config, backups: Sequence[ListedBackup], database: str) -> runbook.Values:
    variables = _connection(config, database) | _store(config)
    urls = _places(config)
    place = next((url for url in reversed(urls) if url.startswith(BUCKET)), None)
    bucket, _, prefix = (place or "").removeprefix(BUCKET).partition("/")
    of_it = [found.manifest for found in backups if found.manifest.database.name == database]
    secrets = ["PGPASSWORD"] if place is None else ["PGPASSWORD", *_KEYS]
    encryption = _encryption(config, of_it)
    several = len({found.manifest.database.name for found in backups}) > 1
    return runbook.Values(
        database=database,
        backups=of_it,
        exports=variables,
        secrets=secrets,
        bucket=bucket or None,
        prefix=f"{prefix.strip('/')}/" if prefix.strip("/") else "",
        several=several,
        facts=[
            *_facts(variables, urls, of_it, encryption),
            *_newest(backups),
            *(["", _SEVERAL] if several else []),
        ],
        major=str(of_it[-1].server.version_num // 10000) if of_it else "that of your notes",
        encryption=encryption,
        pitr=_has_pitr(config),
    )


def _has_pitr(config: Config) -> bool:
    """Whether a store has WAL and base backups; not if it cannot be read, which was reported."""
    try:
        return any(True for _ in location.known(config))
    except e.PgkeepError:
        return False


def _encryption(config: Config, backups: Sequence[Manifest]) -> Encryption | None:
    """Return how new backups are encrypted; if these keys cannot be read here, the newest one."""
    try:
        facts = encryption_facts(config.encryption())
    except e.UsageError:
        facts = None
    return facts or next((made.encryption for made in reversed(backups) if made.encryption), None)


def _connection(config: Config, database: str) -> dict[str, str]:
    """Return the variables of libpq for the connection, without secrets."""
    from psycopg.pq import Conninfo  # noqa: PLC0415 - 200 ms that other commands save

    params = config.endpoint(database).params
    found = {}
    for option in Conninfo.get_defaults():
        variable, keyword = (option.envvar or b"").decode(), option.keyword.decode()
        if not variable or b"*" in option.dispchar:  # a password
            continue
        value = str(params.get(keyword) or os.environ.get(variable) or "")
        if not value and keyword in ("port", "user"):
            value = (option.val or b"").decode()
        if value:
            found[variable] = value
    return {name: found[name] for name in _FIRST if name in found} | found


def _places(config: Config) -> list[str]:
    """Return the directory or the URL of the backups, and the URL of their copies."""
    directory, bucket = config.settings.directory, config.settings.s3_bucket
    places = [directory if directory.startswith(BUCKET) else str(Path(directory).resolve())]
    return places if bucket is None else [*places, f"{BUCKET}{bucket}/{config.settings.s3_prefix}"]


def _store(config: Config) -> dict[str, str]:
    """Return the variables of the directory and the bucket, and of the public keys."""
    found = {"BACKUP_DIR": _places(config)[0]}
    for setting in SETTINGS:
        value = config.values.get(setting.variable)
        wanted = setting.group == Group.BUCKET or setting.variable == "BACKUP_ENCRYPT_TO"
        if wanted and setting.variable not in SECRETS and value is not None:
            found[setting.variable] = value.text
    return found


def _facts(
    variables: dict[str, str],
    urls: Sequence[str],
    backups: Sequence[Manifest],
    encryption: Encryption | None,
) -> list[str]:
    now = datetime.now(UTC)
    drills = [drill for manifest in backups for drill in manifest.drills if drill.passed]
    last = max(drills, key=lambda drill: drill.when, default=None)
    measured = "none has passed: run `pgkeep drill` to measure the time of a recovery"
    if last is not None:
        took = progress.duration(last.recovery_seconds)
        measured = f"{last.when:%Y-%m-%d}, recovery in {took}, without the time for a new machine"
    facts = {
        "server": f"{variables.get('PGHOST', 'local socket')}, port {variables['PGPORT']}"
        + (f", PostgreSQL {backups[-1].server.version}" if backups else ""),
        "role": variables.get("PGUSER", "that of the system user"),
        "database": variables["PGDATABASE"],
        "backups": " and ".join(urls),
        "last drill": measured,
        **_keys(encryption),
        "passwords and keys are kept": "_" * 30,
        "who can block the keys of the bucket": "_" * 30,
    }
    printed = (
        f"Printed {now:%Y-%m-%d %H:%M} UTC on {socket.gethostname()} by pgkeep {__version__}. It"
        " contains no passwords. Print it again once a month, and after every change."
    )
    return [printed, "", *(f"- {name}: {printable(text)}" for name, text in facts.items()), ""]


def _keys(encryption: Encryption | None) -> dict[str, str]:
    """Return a line for each private key, to be filled in by hand."""
    if encryption is None:
        return {}
    return {f"private key of {key} is kept": "_" * 30 for key in encryption.recipients}


def _newest(backups: Sequence[ListedBackup]) -> list[str]:
    """Return a table of the newest backups of each database, newest first."""
    if not backups:
        return [_NONE]
    lines = [f"{'ID':9}{'TAKEN (UTC)':17}{'SIZE':>9}  NAME"]
    for name in sorted({backup.manifest.database.name for backup in backups}):
        of_it = [found.manifest for found in backups if found.manifest.database.name == name]
        lines += [
            f"{made.name.id} {made.taken:%Y-%m-%d %H:%M} {progress.size(made.artifact.size):>9}"
            f"  {made.name.stem}"
            for made in of_it[: -SHOWN - 1 : -1]
        ]
    return ["Newest backups when this was printed:", "", "```text", *lines, "```"]
