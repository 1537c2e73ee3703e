"""pgkeep key new."""

import sys
from pathlib import Path

import click

from .. import errors as e
from ..crypt import new_key
from . import output
from .command import pgkeep_command
from .common import complete_files, json_option, print_json
from .rules import AtMostOne, Requires

_KEEP = (
    "Keep the private key where neither the backups nor their host are. Without it, nobody can"
    " restore them."
)


@pgkeep_command(
    "new",
    examples=(
        "pgkeep key new",
        "pgkeep key new --output=/media/usb/backup-key.txt --passphrase",
        "pgkeep key new --print | gpg --symmetric --output=backup-key.gpg",
    ),
    rules=(
        AtMostOne(("--output", "--print")),
        Requires("--json", ("--output", "--print")),
    ),
)
@click.option(
    "--output",
    "file",
    metavar="FILE",
    shell_complete=complete_files,
    help="Write the private key into this new file, which only you can read.",
)
@click.option(
    "--print",
    "printed",
    is_flag=True,
    help="Print the private key to standard output, even if that is not a terminal.",
)
@click.option(
    "--passphrase", is_flag=True, help="Protect the private key with a passphrase, asked twice."
)
@json_option
def command(*, file: str | None, printed: bool, passphrase: bool, as_json: bool) -> None:
    """Create a private key of age, and print its public key for BACKUP_ENCRYPT_TO.

    Do this on a machine that does not back up. Without --output, the private key is printed once,
    to the terminal, and written nowhere. The file is that of age-keygen, and age reads it.

    The public key encrypts, and is no secret. Only the private key decrypts. Create two, and keep
    one of them on paper.
    """
    if file is None and not printed and not sys.stdout.isatty():
        raise e.UsageError(
            "the private key is not printed: standard output is not a terminal",
            hint="Write it into a new file with --output=FILE. --print prints it all the same.",
        )
    made = new_key.create()
    text = made.protected(_new_passphrase()) if passphrase else made.text
    if file is not None:
        new_key.write_private(Path(file), text)
    if as_json:
        document = {"public_key": made.public, "file": file, "protected": passphrase}
        print_json(document | ({"private_key": text} if printed else {}))
    elif file is None:
        output.show(text.splitlines())
    # Standard output can be read by another program: then it has nothing but the key.
    alone = as_json or (file is None and not sys.stdout.isatty())
    output.say(f"BACKUP_ENCRYPT_TO={made.public}", err=alone)
    output.note(_KEEP, err=True)
    where = f"in {file}" if file is not None else "printed, and written nowhere"
    output.current().done(f"the private key is {where}", as_json=alone)


def _new_passphrase() -> str:
    if not sys.stdin.isatty():
        raise e.UsageError("cannot ask for a passphrase: standard input is not a terminal")
    passphrase = output.ask_secret("passphrase for the private key")
    if not passphrase:
        raise e.UsageError("the passphrase is empty")
    if output.ask_secret("the same passphrase again") != passphrase:
        raise e.UsageError("the two passphrases differ: no key was created")
    return passphrase
