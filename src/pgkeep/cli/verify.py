"""pgkeep verify."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from .. import errors as e
from .. import progress
from ..artifact.verify import VerificationReport
from ..catalog import files as backup_files
from ..catalog import manifests, side_files
from ..catalog.files import File
from ..config import Config
from ..model import naming
from ..stores.local import LocalStore
from . import other_copy, output
from .command import pgkeep_command
from .common import (
    catalogs,
    complete_files,
    configured_stores,
    dir_option,
    identity_option,
    jobs_option,
    json_option,
    keys,
    load_config,
    locate,
    no_backups,
    plural,
    print_json,
    stores,
    target_option,
    with_id,
)
from .rules import AtMostOne, Requires

TOC = "toc.dat"  # in a dump of the directory format


@pgkeep_command(
    "verify",
    examples=(
        "pgkeep verify --latest",
        "pgkeep verify --all --json",
        "pgkeep verify 3fa01b2c",
        "pgkeep verify backups/app_daily_20261122T020000Z.sql.gz",
        "pgkeep verify /mnt/old_dumps",
        "zcat artifact.sql.gz > plain.sql && pgkeep verify plain.sql",
    ),
    rules=(
        AtMostOne(("--latest", "--all")),
        Requires("--database", ("--latest", "--all")),
    ),
)
@click.argument("paths", metavar="[FILE | DIR]...", nargs=-1, shell_complete=complete_files)
@click.option("--latest", "newest", is_flag=True, help="The newest backup of each database.")
@click.option("--all", "everything", is_flag=True, help="All backups, and all their copies.")
@click.option(
    "--database", metavar="NAME", help="With --latest or --all: only backups of this database."
)
@identity_option
@target_option
@dir_option
@jobs_option
@json_option
def command(
    *,
    paths: tuple[str, ...],
    newest: bool,
    everything: bool,
    database: str | None,
    as_json: bool,
    **common: str | None,
) -> None:
    """Check that files are complete and undamaged. No server is required.

    FILE is the id or name of a backup, a path, or an s3:// URL. DIR stands for all backups and
    dumps in a directory, without its subdirectories.

    In a backup file of pgkeep, the end marker, index, hashes, CRCs, row counts and the structure of
    the SQL are checked, and the SHA-256 and the manifest next to it. In any other plain dump of
    pg_dump, compressed or not, the structure is checked from the first comment to the last. Exit
    code 5 if a file is damaged, else 6 if a file cannot be read. Except for a single FILE, --json
    prints a list with a verdict on each file.

    Of an encrypted backup without a private key, the form of the file, its length and its SHA-256
    are checked. If BACKUP_ENCRYPT_TO has public keys, a backup that is not encrypted is a failure.
    """
    if bool(paths) == (newest or everything):
        raise click.UsageError("either FILE, --latest or --all is required")
    config = load_config(**common)
    if newest:
        found = backup_files.newest_of(catalogs(config), database)
    elif everything:
        found = [file for store in stores(config) for file in backup_files.all_of(store, database)]
    else:
        found = [file for path in paths for file in _files(path, config)]
    if not found:
        raise no_backups(paths or [store.url for store in stores(config)])
    single = len(paths) == 1 and not _is_directory(paths[0])
    verdicts: list[Verdict] = []
    for verdict in _verify(found, config, silent=as_json):
        verdicts.append(verdict)
        if not as_json and not (single and verdict.error):
            _print(verdict)
    _conclude(verdicts, single=single, as_json=as_json)


def _files(path: str, config: Config) -> list[File]:
    """Return the files that an argument means."""
    if not _is_directory(path):
        return [File(*locate(path, config), listed=False)]
    if naming.is_id(path):
        with_id(path, config)
    if Path(path, TOC).exists():
        return [File(LocalStore(Path(path)), TOC)]
    return backup_files.all_of(LocalStore(Path(path)), dumps=True)


def _is_directory(path: str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path's raises where the name is too long


class Verdict(NamedTuple):
    """The result for one file: a report, or an error."""

    file: str
    report: VerificationReport | None = None
    error: e.PgkeepError | None = None

    def document(self) -> dict[str, Any]:
        """Return the verdict for --json."""
        if self.error is None:
            return {"ok": True, **msgspec.to_builtins(self.report)}
        return {
            "ok": False, "file": self.file, "error": self.error.message, "hint": self.error.hint,
            "exit_code": self.error.exit_code,
        }  # fmt: skip


def _verify(found: Sequence[File], config: Config, *, silent: bool) -> Iterator[Verdict]:
    private = keys(config)
    encrypted_in = [store.url for store in configured_stores(config)] if config.encrypts else []
    files = list(found)
    for number, file in enumerate(files, 1):
        url = file.store.url_of(file.name)
        try:
            with output.current().progress(silent=silent) as bar:
                bar.step("verifying" if len(files) == 1 else f"verifying {number} of {len(files)}")
                report = side_files.verify(
                    file.store, file.name, keys=private, jobs=config.settings.jobs,
                    progress=bar.advance, total=bar.total,
                )  # fmt: skip
        except (e.VerificationFailed, e.StoreError, e.UsageError) as found_error:
            error: e.PgkeepError = found_error
            if file.listed and isinstance(error, e.Missing):
                valid = _valid(file)
                if valid is None:
                    output.current().info(f"{url} was removed meanwhile")
                    continue
                if valid != file.name:  # `pgkeep rekey` has replaced it meanwhile
                    files.append(file._replace(name=valid))
                    continue
                error = e.VerificationFailed(f"{url} is missing, its manifest is not")
            other_copy.add_hint(
                error, file.store, file.name, config, "verify ", "restore --backup="
            )
            yield Verdict(url, error=error)
        else:
            plain = _is_plain_backup(file.name) and file.store.url in encrypted_in
            yield Verdict(url, report, _unencrypted(url) if plain else None)


def _is_plain_backup(file: str) -> bool:
    name = naming.parse(file)
    return name is not None and name.cipher is None


def _unencrypted(url: str) -> e.VerificationFailed:
    return e.VerificationFailed(
        f"{url} is undamaged, but it is not encrypted, and BACKUP_ENCRYPT_TO is set",
        hint="pgkeep rekey encrypts it, and removes the file that is not encrypted.",
    )


def _valid(file: File) -> str | None:
    """Return the file that the manifest names now; a run can have removed both (trap B10)."""
    name = naming.parse(file.name)
    if name is None or not file.store.exists(name.manifest):
        return None
    with contextlib.suppress(e.StoreError, e.VerificationFailed):
        return manifests.read(file.store, name.manifest).artifact.name
    return file.name


def _print(verdict: Verdict) -> None:
    report, error = verdict.report, verdict.error
    if report is not None and error is None:
        output.note(
            f"ok: {report.file}: {plural(report.tables, 'table')}, {plural(report.rows, 'row')},"
            f" {progress.size(report.raw_bytes)} of SQL; checked {', '.join(report.checked)}"
        )
    if error is not None:
        named = verdict.file in error.message
        output.say(f"failed: {'' if named else f'{verdict.file}: '}{error.message}")
        for line in (error.hint or "").splitlines():
            output.say(f"    {line}")


def _conclude(verdicts: Sequence[Verdict], *, single: bool, as_json: bool) -> None:
    """Print the verdicts for --json.

    Raises:
        PgkeepError: at least one file has failed; damage counts more than a file that is not read.

    """
    failed = [verdict.error for verdict in verdicts if verdict.error is not None]
    if single and failed:
        raise failed[0]
    if as_json:
        documents = [verdict.document() for verdict in verdicts]
        print_json(documents[0] if single else documents)
    if failed:
        worst = min(failed, key=lambda error: _RANK.get(error.exit_code, len(_RANK)))
        count = f"{len(failed)} of {plural(len(verdicts), 'file')} failed"
        raise type(worst)(f"{count}: {worst.message}")


_RANK = {e.VerificationFailed.exit_code: 0, e.StoreError.exit_code: 1}
