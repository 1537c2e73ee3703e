"""What several commands share: options, configuration, access to backups."""

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from click.shell_completion import CompletionItem

from .. import config
from .. import errors as e
from ..catalog import catalog, ids, variants
from ..model import naming
from ..settings import BUCKET, SECRETS, SETTINGS
from ..stores.local import LocalStore
from ..stores.store import Store
from . import directories, output, run_log

if TYPE_CHECKING:
    from ..artifact.file import Artifact
    from ..crypt.opening import Keys
    from ..model.manifest import Manifest

Function = Callable[..., Any]


def complete_files(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete the name of a file."""
    del context, parameter
    return [CompletionItem(incomplete, type="file")]


def complete_directories(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete the name of a directory."""
    del context, parameter
    return [CompletionItem(incomplete, type="dir")]


_SETTING_OF = {setting.option: setting for setting in SETTINGS if setting.option is not None}


def setting_help(option: str) -> str:
    """Return the help of an option that sets a setting."""
    setting = _SETTING_OF[option]
    return f"{setting.help} ({setting.variable})"


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
compression_option = click.option(
    "--compression", metavar="gzip|zstd", help=setting_help("--compression")
)
jobs_option = click.option("--jobs", metavar="N", help=setting_help("--jobs"))
dir_option = click.option(
    "--dir",
    "directory",
    metavar="DIR",
    shell_complete=complete_directories,
    help=setting_help("--dir"),
)
identity_option = click.option(
    "--identity",
    metavar="FILE",
    shell_complete=complete_files,
    help=setting_help("--identity"),
)
target_option = click.option(
    "--target", metavar="NAME", help="Use this target of the configuration file (PGKEEP_CONFIG)."
)


dsn_option = click.option(
    "--dsn",
    metavar="DSN",
    help=f"{setting_help('--dsn')} Do not put a password here: every user of this machine can"
    " see the arguments of a process.",
)


def connection_options(function: Function) -> Function:
    """Add the options that name the server and the database."""
    function = click.option(
        "--database", metavar="NAME", help="Name of the database (POSTGRES_DB or PGDATABASE)."
    )(function)
    return dsn_option(function)


def load_configs(
    *,
    target: str | None = None,
    dsn: str | None = None,
    directory: str | None = None,
    jobs: str | None = None,
    lock_timeout: str | None = None,
    yield_after: str | None = None,
    computed: str | None = None,
    compression: str | None = None,
    identity: str | None = None,
) -> list[config.Config]:
    """Read the environment, pgkeep.toml and these options: one configuration for each target."""
    options = {
        "--dsn": dsn,
        "--dir": directory,
        "--jobs": jobs,
        "--lock-timeout": lock_timeout,
        "--yield-after": yield_after,
        "--no-computed-values": computed,
        "--compression": compression,
        "--identity": identity,
    }
    given = {_SETTING_OF[option].variable: text for option, text in options.items()}
    configs = config.load(os.environ, given, target)
    run_log.current().configs = configs
    out = output.current()
    if out.verbosity == output.Verbosity.VERBOSE:
        for found in configs:
            for variable, (text, origin) in found.values.items():
                shown = "********" if variable in SECRETS else text
                out.info(f"{variable} is {shown}, from {origin}")
    return configs


def load_config(
    *,
    target: str | None = None,
    dsn: str | None = None,
    directory: str | None = None,
    jobs: str | None = None,
    lock_timeout: str | None = None,
    compression: str | None = None,
    identity: str | None = None,
) -> config.Config:
    """Read the configuration of one target."""
    configs = load_configs(
        target=target, dsn=dsn, directory=directory, jobs=jobs, lock_timeout=lock_timeout,
        compression=compression, identity=identity,
    )  # fmt: skip
    if len(configs) > 1:
        names = ", ".join(str(found.target) for found in configs)
        raise e.UsageError(
            f"the configuration has several targets: {names}",
            hint="Choose a target with --target=NAME.",
        )
    return configs[0]


def keys(target: config.Config) -> "Keys":
    """Return the private keys; a file that is protected asks for its passphrase on a terminal."""
    return target.keys(ask_passphrase)


def ask_passphrase(prompt: str) -> str:
    """Ask for the passphrase of a file of private keys, on a terminal."""
    if not sys.stdin.isatty():
        raise e.UsageError(
            f"cannot ask for the {prompt}: standard input is not a terminal",
            hint="Use an identity file without a passphrase where nobody can be asked.",
        )
    return output.ask_secret(prompt)


def check_extra(extra: str, *modules: str) -> None:
    """Check that the modules of an extra are installed.

    Raises:
        UsageError: a module is missing.

    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise e.UsageError(
                f"{extra} requires another package: {error.name}",
                hint=f"pip install 'pgkeep[{extra}]'",
            ) from error


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    output.current().printed = True
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def stores(target: config.Config) -> list[Store]:
    """Return the store of a target, then the store of its copies if it has one.

    Raises:
        UsageError: the directory does not exist, and there is no bucket.

    """
    if target.settings.s3_bucket is None:
        directories.check([target])
    return configured_stores(target)


def configured_stores(target: config.Config) -> list[Store]:
    """Return the same stores, whether they exist or not."""
    copy = target.copy()
    return [target.store()] if copy is None else [target.store(), copy]


def catalogs(target: config.Config) -> list[catalog.Catalog]:
    """Return the catalogs of the stores that can be read; warn of the others.

    Raises:
        StoreError: no store can be read.

    """
    found, failed = _read(target)
    for problem in (*failed, *(text for each in found for text in each.unreadable)):
        output.current().warning(problem)
    return found


def latest(
    target: config.Config, database: str | None, *, verified: bool = False
) -> tuple[Store, "Manifest"]:
    """Return the newest backup and the store that has it.

    Raises:
        StoreError: no store can be read.
        Refused: there is no backup to choose, or a newer one may be unreadable.

    """
    found, failed = _read(target)
    now = datetime.now(UTC)
    chosen = catalog.latest(found, database, now, verified=verified, unread=failed)
    for problem in (text for each in found for text in each.unreadable):
        output.current().warning(problem)
    for problem in catalog.passed_over(found, chosen[1]):
        output.current().warning(problem)
    for problem in catalog.incomplete_before(found, *chosen):
        output.current().warning(problem)
    return chosen


def _read(target: config.Config) -> tuple[list[catalog.Catalog], list[str]]:
    """Return the catalogs of the stores that can be read, and why others cannot."""
    found: list[catalog.Catalog] = []
    failed: list[e.StoreError] = []
    directories.check([target])
    for store in stores(target):
        try:
            found.append(catalog.Catalog(store).read())
        except e.StoreError as error:
            failed.append(error)
    if not found:
        raise failed[0]
    return found, [error.message for error in failed]


def locate(file: str, target: config.Config) -> tuple[Store, str]:
    """Return store and name of a file: a path, a URL, or the name or id of a backup in a store.

    Raises:
        UsageError: the name is empty, the URL has no key, or several backups can be meant.
        Missing: no backup has this id.
        StoreError: a store that could have a backup with this id cannot be read.

    """
    if not file:
        raise e.UsageError("the name of the backup file is empty")
    if naming.is_id(file):
        found = with_id(file, target)
        if found is not None:
            return found[0], found[1].artifact
        if not os.path.lexists(file):
            raise e.Missing(f"no backup with id {file} in {_where(target)}", hint=_LIST)
    if file.startswith(BUCKET):
        place, _, name = file.rpartition("/")
        if not name or not place.startswith(BUCKET) or place == BUCKET:
            raise e.UsageError(
                f"{file} names no file: expected s3://BUCKET/KEY",
                hint="pgkeep list --dir=s3://BUCKET/PREFIX lists the backups.",
            )
        parsed = naming.parse(name)
        if parsed is not None and place.endswith(f"/{parsed.type}"):
            return target.store_at(place.removesuffix(f"/{parsed.type}")), name
        return target.store_at(place, tiers=False), name
    return _locate_path(Path(file), target)


def _locate_path(path: Path, target: config.Config) -> tuple[Store, str]:
    """Return store and name of a file that is given by its path, or by the name of a backup."""
    stem = naming.parse(path.name + naming.ARTIFACT)  # as warnings and reports name it
    name = path.name if stem is None else stem.artifact
    exists = os.path.exists  # Path.exists raises errors that opening the file reports better
    if exists(path):
        return LocalStore(path.parent), path.name
    places = stores(target) if len(path.parts) == 1 else [LocalStore(path.parent)]
    for store in places:
        if store.exists(name):
            return store, name
        if stem is not None and (other := _other_form(store, stem)) is not None:
            return store, other
    return places[0], name


def _other_form(store: Store, name: naming.BackupName) -> str | None:
    """Return the file of a backup that is encrypted or in zstd, if the store has one."""
    with contextlib.suppress(e.StoreError):
        names = [item.name for item in store.items()]
        found = variants.valid(store, name, names).artifact
        return found if found in names else None
    return None


_LIST = "List existing backups with: pgkeep list."


def _where(target: config.Config) -> str:
    return " or ".join(store.url for store in stores(target))


def with_id(text: str, target: config.Config) -> tuple[Store, naming.BackupName] | None:
    """Return the backup that has an id, unless a file could be meant as well.

    Raises:
        UsageError: several backups, or a backup and a file, can be meant.

    """
    found = ids.find(configured_stores(target), text)
    if found is not None and os.path.lexists(text):
        raise e.UsageError(
            f"{text} is the id of backup {found[1].stem}, and a file in the current directory",
            hint=f"Write ./{text} for the file, or the name of the backup.",
        )
    return found


def backup_name(text: str, target: config.Config) -> naming.BackupName:
    """Return the name of a backup, given as its id, as its name or as one of its files.

    Raises:
        UsageError: it is not the name of a backup, or several backups can be meant.
        Refused: no backup has this id.

    """
    if naming.is_id(text):
        found_by_id = ids.find(stores(target), text)
        if found_by_id is None:
            raise e.Refused(f"no backup with id {text} in {_where(target)}", hint=_LIST)
        return found_by_id[1]
    file = Path(text).name
    found = naming.parse(file) or naming.parse(file + naming.ARTIFACT)
    if found is None:
        raise e.UsageError(
            f"{text!r} is not the name of a backup",
            hint="pgkeep list prints the ids of backups, pgkeep list --names their names.",
        )
    return found


def no_backups(urls: Iterable[str]) -> e.Refused:
    """Return the error of a command that found no backup in these stores or directories."""
    return e.Refused(
        f"no backups in {' or '.join(urls)}",
        hint="Check the directory (BACKUP_DIR or --dir), and the name of the database.",
    )


def plural(count: int, noun: str) -> str:
    """Return `1 table`, `2 tables`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


@contextlib.contextmanager
def pipe() -> Iterator[None]:
    """Write results to a reader who can stop reading; then end silently, as SIGPIPE would.

    Other errors of our output are reported as for any command.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


@contextlib.contextmanager
def open_artifact(file: str, target: config.Config) -> Iterator["Artifact"]:
    """Open a backup file given by its path, URL or name, see `open_located`."""
    with open_located(*locate(file, target), keys(target)) as artifact:
        yield artifact


@contextlib.contextmanager
def open_located(store: Store, name: str, keys: "Keys") -> Iterator["Artifact"]:
    """Open a backup file of a store; only its end marker and its index are read.

    Raises:
        Refused: it is a plain dump without an index.
        VerificationFailed: it is truncated or damaged.

    """
    from ..artifact import file as file_module  # noqa: PLC0415 - other commands save the time
    from ..artifact import plain_reader  # noqa: PLC0415
    from ..artifact.file import is_artifact  # noqa: PLC0415
    from ..catalog import side_files  # noqa: PLC0415

    with contextlib.closing(side_files.open_contents(store, name, keys)) as source:
        if not is_artifact(source) and not plain_reader.is_ours(source):
            raise e.Refused(
                f"{source.name} is not a backup file of pgkeep: it has no index",
                hint=f"pgkeep index {store.url_of(name)} makes one of it. pgkeep verify reads any"
                " plain dump.",
            )
        yield file_module.Artifact(source)
