"""pgkeep key kit."""

import shlex
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from .. import __version__
from .. import errors as e
from ..catalog.catalog import Catalog
from ..config import PLAIN, Config
from ..crypt import new_key
from ..model.manifest import DatabaseFacts, Manifest
from ..model.naming import BackupName, BackupType, Cipher
from ..settings import BUCKET
from . import kit_page, output, output_file
from .command import pgkeep_command
from .common import (
    ask_passphrase,
    catalogs,
    complete_files,
    dir_option,
    identity_option,
    load_config,
    target_option,
)
from .kit_page import Example, Kit
from .rules import Requires

EXAMPLE_TIME = datetime(2026, 11, 22, 2, tzinfo=UTC)
_HTML = (".html", ".htm")


@pgkeep_command(
    "kit",
    examples=(
        "pgkeep key kit | lpr",
        "pgkeep key kit --output=kit.html",
        "pgkeep key kit --identity=backup-key.txt --qr --output=kit.html",
    ),
    rules=(Requires("--qr", ("--output",)),),
)
@identity_option
@click.option(
    "--qr", is_flag=True, help="Add the private key of --identity: its text and its QR code."
)
@click.option(
    "--output",
    "file",
    metavar="FILE",
    shell_complete=complete_files,
    help="Write the page into this file: HTML if its name ends in .html, else plain text.",
)
@target_option
@dir_option
def command(
    *, identity: str | None, qr: bool, file: str | None, target: str | None, directory: str | None
) -> None:
    """Print one page: how to decrypt and restore backups without pgkeep.

    It has the recipients, where the backups are, and the commands for age or GPG, with the names of
    the newest backups. Keep it on paper, with the private key. It contains no password, and no
    private key without --qr. An existing file is replaced, except by a page with a private key,
    which requires a new file that only you can read.
    """
    config = load_config(target=target, directory=directory, identity=identity)
    kit = _kit(config, _private(config, file) if qr else None)
    is_html = file is not None and file.endswith(_HTML)
    text = kit_page.html_page(kit) if is_html else "\n".join(kit_page.text_page(kit)) + "\n"
    if file is None:
        output.show(text.splitlines())
        return
    if qr:
        new_key.write_private(Path(file), text)
    else:
        output_file.write(Path(file), text.encode("utf-8", "surrogateescape"))
    secret = "; it contains the private key" if qr else ""
    output.current().done(f"{file}{secret}")


def _private(config: Config, file: str | None) -> str:
    """Return the private key for the page.

    Raises:
        UsageError: the page can have no picture, or there is not exactly one key.

    """
    from ..crypt import age_identities  # noqa: PLC0415 - an optional dependency

    if file is None or not file.endswith(_HTML):
        raise e.UsageError(
            "--qr requires a page with pictures", hint="Write it with --output=FILE.html."
        )
    files = config.settings.identity_files
    if len(files) != 1:
        raise e.UsageError(
            f"--qr requires one file with a private key of age, found {len(files)}",
            hint="Give it with --identity=FILE.",
        )
    return age_identities.native_key(files[0], ask_passphrase)


def _kit(config: Config, private: str | None) -> Kit:
    now = datetime.now(UTC)
    found = _catalogs(config)
    backups = [manifest for catalog in found for manifest in catalog.whole() if manifest.full]
    newest = _newest_of_each_cipher(backups)
    recipients = _recipients(config, newest)
    if not recipients:
        raise e.UsageError(
            "no backup is encrypted, and BACKUP_ENCRYPT_TO is not set",
            hint="Set BACKUP_ENCRYPT_TO to public keys. pgkeep key new creates one. pgkeep runbook"
            " prints how to restore backups that are not encrypted.",
        )
    stores = _stores(config)
    bucket = next((url.rstrip("/") for url in reversed(stores) if url.startswith(BUCKET)), None)
    directory = next((url for url in stores if not url.startswith(BUCKET)), None)
    files = config.settings.identity_files
    return Kit(
        printed=f"Printed {now:%Y-%m-%d %H:%M} UTC on {socket.gethostname()} by pgkeep"
        f" {__version__}.",
        recipients=recipients,
        stores=stores,
        directory=directory,
        bucket=bucket,
        endpoint=config.settings.s3_endpoint if bucket is not None else None,
        examples=_examples(newest, recipients[0][0]),
        identity=str(files[0]) if files and private is None else "key.txt",
        private=private,
        picture="" if private is None else _picture(private),
    )


def _catalogs(config: Config) -> list[Catalog]:
    """Return the stores that can be read; without any, the page has examples of names."""
    try:
        return catalogs(config)
    except (e.StoreError, e.UsageError) as error:
        output.current().warning(f"the page names no backups: {error.message}")
        return []


def _newest_of_each_cipher(backups: Sequence[Manifest]) -> list[Manifest]:
    """Return the newest encrypted backup of each cipher, the newest cipher first."""
    newest: dict[Cipher, Manifest] = {}
    for manifest in sorted(backups, key=lambda manifest: manifest.taken):
        if manifest.name.cipher is not None:
            newest[manifest.name.cipher] = manifest
    return sorted(newest.values(), key=lambda manifest: manifest.taken, reverse=True)


def _recipients(config: Config, newest: Sequence[Manifest]) -> list[tuple[Cipher, str]]:
    """Return who decrypts new backups, and the newest existing ones."""
    found: dict[tuple[Cipher, str], None] = {}
    if config.settings.encrypt_to not in (None, PLAIN):
        recipients = config.encryption().recipients
        assert recipients is not None  # noqa: S101 - some are set
        found |= dict.fromkeys((recipients.cipher, name) for name in recipients.names)
    for manifest in newest:
        if manifest.encryption is not None:
            facts = manifest.encryption
            found |= dict.fromkeys((facts.cipher, name) for name in facts.recipients)
    return list(found)


def _examples(newest: Sequence[Manifest], cipher: Cipher) -> list[Example]:
    if newest:
        return [
            Example(
                name=manifest.name,
                roles=manifest.globals is not None,
                create=_create(manifest.database),
            )
            for manifest in newest
        ]
    name = BackupName(database="app", type=BackupType.DAILY, taken=EXAMPLE_TIME, cipher=cipher)
    return [Example(name=name, roles=True, create="-T template0 -E UTF8")]


def _create(database: DatabaseFacts) -> str:
    """Return the options of createdb, as the first lines of the backup file have them."""
    options = ["-T", "template0", "-E", database.encoding]
    if database.collate and database.ctype:
        options += [f"--lc-collate={database.collate}", f"--lc-ctype={database.ctype}"]
    return shlex.join(options)


def _stores(config: Config) -> list[str]:
    """Return the directory or the URL of the backups, and the URL of their copies."""
    directory, bucket = config.settings.directory, config.settings.s3_bucket
    places = [directory if directory.startswith(BUCKET) else str(Path(directory).resolve())]
    return places if bucket is None else [*places, f"{BUCKET}{bucket}/{config.settings.s3_prefix}"]


def _picture(private: str) -> str:
    import segno  # noqa: PLC0415 - an optional dependency

    code = segno.make(private, error="m", micro=False)
    picture: str = code.svg_inline(scale=4)
    return picture
