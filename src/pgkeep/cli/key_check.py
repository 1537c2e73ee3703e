"""pgkeep key check."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import click

from .. import errors as e
from ..catalog import key_check
from ..catalog.catalog import Backup
from ..catalog.key_check import KeyCheck, State
from ..config import Config
from ..model import naming
from ..model.record import DatabaseResult
from ..stores.store import Store
from ..terminal import printable
from . import output, run_log
from .command import pgkeep_command
from .common import (
    catalogs,
    dir_option,
    identity_option,
    json_option,
    keys,
    load_configs,
    no_backups,
    plural,
    print_json,
    stores,
    target_option,
)
from .run_log import TargetOutcome

_FAILED = (State.OTHER_KEY, State.DAMAGED, State.MISSING, State.UNREADABLE)


class _Checked(NamedTuple):
    """The result for one backup of a store."""

    store: Store
    backup: Backup
    result: KeyCheck

    def document(self) -> dict[str, Any]:
        """Return it for --json."""
        manifest, (state, proved, error) = self.backup.manifest, self.result
        encryption = manifest.encryption
        return {
            "id": manifest.name.id,
            "backup": manifest.name.stem,
            "database": manifest.database.name,
            "store": self.store.url,
            "cipher": None if encryption is None else encryption.cipher,
            "recipients": [] if encryption is None else encryption.recipients,
            "state": state,
            "proved": proved or None,
            "error": None if error is None else error.message,
        }


@pgkeep_command(
    "check",
    examples=(
        "pgkeep key check --identity=/media/usb/backup-key.txt",
        "GNUPGHOME=/media/usb/gnupg pgkeep key check --json",
    ),
    recorded=True,
)
@click.option("--database", metavar="NAME", help="Check only backups of this database.")
@identity_option
@target_option
@dir_option
@json_option
def command(
    *,
    database: str | None,
    identity: str | None,
    target: str | None,
    directory: str | None,
    as_json: bool,
) -> None:
    """Find backups that a private key does not decrypt.

    Of each backup in the directory and in the bucket, a small part is decrypted: of age, the header
    and the last chunk; of GPG, the globals, or the beginning of the backup file. That proves the
    key, and not that the file is undamaged: pgkeep verify and pgkeep drill prove that. GPG uses the
    keyring and its agent.

    Exit code 5 if a backup cannot be decrypted, 6 if a file cannot be read. The run is recorded, so
    that metrics show when a key was last checked.
    """
    checked: list[_Checked] = []
    configs = load_configs(target=target, directory=directory, identity=identity)
    for config in configs:
        found = list(_check(config, database))
        run_log.current().ended(config, TargetOutcome(results=_results(found)))
        checked += found
    if not checked:
        raise no_backups(store.url for config in configs for store in stores(config))
    if as_json:
        print_json([result.document() for result in checked])
    else:
        output.show(_table(checked))
    failed = [result for result in checked if result.result.state in _FAILED]
    if failed:
        error = min(failed, key=lambda result: _code(result.result)).result.error
        assert error is not None  # noqa: S101 - each of these states has its error
        kind = e.StoreError if isinstance(error, e.StoreError) else e.VerificationFailed
        raise kind(
            f"{len(failed)} of {plural(len(checked), 'backup')} cannot be decrypted:"
            f" {error.message}",
            hint=error.hint,
        )
    opened = sum(result.result.state == State.OPENED for result in checked)
    output.current().done(f"{opened} of {plural(len(checked), 'backup')} decrypted",
                          as_json=as_json)  # fmt: skip


def _check(config: Config, database: str | None) -> Iterator[_Checked]:
    """Check the backups of a target, with its private keys."""
    private = keys(config)
    for catalog in catalogs(config):
        for backup in catalog.backups():
            manifest = backup.manifest
            if database not in (None, manifest.database.name):
                continue
            if manifest.name.cipher is naming.Cipher.AGE and not private.files:
                raise e.NoKey(
                    f"{manifest.name.artifact} is encrypted with age, and no private key is given",
                    hint="Give its file with --identity=FILE, or BACKUP_IDENTITY_FILE.",
                )
            yield _Checked(catalog.store, backup, key_check.check(catalog.store, backup, private))


def _code(result: KeyCheck) -> int:
    """Return an exit code: what cannot be read is not more than a wrong key."""
    if result.state not in _FAILED:
        return 0
    kind = e.StoreError if result.state == State.UNREADABLE else e.VerificationFailed
    return kind.exit_code


def _results(checked: Sequence[_Checked]) -> list[DatabaseResult]:
    """Return one result for each database that has encrypted backups: a store can have many."""
    results: dict[str, DatabaseResult] = {}
    for _, backup, result in checked:
        name, code = backup.manifest.database.name, _code(result)
        if result.state == State.NOT_ENCRYPTED:
            continue
        if name not in results or (code and not results[name].exit_code):
            error = None if result.error is None else result.error.message
            results[name] = DatabaseResult(database=name, exit_code=code, error=error)
    return list(results.values())


def _table(checked: Sequence[_Checked]) -> list[str]:
    lines: list[str] = []
    before = ""
    where = ""
    title = f"{'ID':9}{'TAKEN (UTC)':17}{'TYPE':8}{'CIPHER':7}"
    for store, backup, result in checked:
        manifest = backup.manifest
        heading = f"database {printable(manifest.database.name)}"
        if store.url != where:
            lines += [store.url, f"  {title}RESULT"]
            where, before = store.url, ""
        if heading != before:
            lines.append(heading)
            before = heading
        encryption = manifest.encryption
        line = (
            f"  {manifest.name.id} {manifest.taken:%Y-%m-%d %H:%M} {manifest.type:8}"
            f"{'-' if encryption is None else encryption.cipher:7}"
        )
        text = str(result.state)
        if result.state == State.OTHER_KEY and encryption is not None:
            text += f": encrypted to {', '.join(map(_short, encryption.recipients))}"
        elif result.error is not None and result.state in _FAILED:
            text += f": {result.error.message}"
        wrapped = textwrap.wrap(text, output.WIDTH - len(line))
        lines += [line + wrapped[0], *(" " * len(line) + more for more in wrapped[1:])]
    return lines


def _short(recipient: str) -> str:
    """Return the beginning and the end of a public key."""
    return recipient if len(recipient) <= 20 else f"{recipient[:10]}...{recipient[-6:]}"
