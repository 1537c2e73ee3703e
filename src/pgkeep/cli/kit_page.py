"""The recovery kit: one page about how to decrypt and restore backups without pgkeep.

Plain text, at most 80 columns wide and 60 lines long, or HTML for a printer. It depends on nothing
but its values.
"""

import html
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..model.naming import BackupName, Cipher
from ..terminal import printable

LINES, WIDTH = 60, 80  # of a printed page of text
_ABOUT = (
    "A backup is pg_dump's SQL, compressed, then encrypted. These commands need no pgkeep: only"
    " {programs} and psql. Type them in the shell of the machine that restores, with"
    " PGHOST, PGUSER and PGPASSWORD set for a superuser of the new server."
)
_STYLE = (
    "@page{margin:14mm}body{font:10pt/1.35 sans-serif;color:#000;background:#fff;max-width:180mm}"
    "h1{font-size:15pt;margin:0 0 2mm}h2{font-size:11pt;margin:4mm 0 1mm}p{margin:0 0 1mm}"
    "pre{font:8.5pt/1.35 monospace;margin:0;white-space:pre-wrap;overflow-wrap:anywhere}"
    "svg{width:45mm;height:45mm}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A backup whose files the commands name."""

    name: BackupName
    roles: bool  # whether it has a file of roles
    create: str  # the options of createdb


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """The contents of the page."""

    printed: str  # when, where and by which version
    recipients: Sequence[tuple[Cipher, str]]
    stores: Sequence[str]
    directory: str | None  # where the files are, if that is a directory
    bucket: str | None  # the URL of the bucket, with the prefix and without a slash at its end
    endpoint: str | None
    examples: Sequence[Example]  # one for each cipher
    identity: str  # the file of the private key of age in the commands
    private: str | None = None  # a private key of age
    picture: str = ""  # its QR code, as SVG


@dataclass(frozen=True, slots=True)
class _Part:
    title: str
    text: str = ""
    lines: tuple[str, ...] = ()  # commands, or a list


def text_page(kit: Kit) -> list[str]:
    """Return the lines of the page as plain text."""
    import textwrap  # noqa: PLC0415 - few ask for it

    lines = ["HOW TO RESTORE THE BACKUPS WITHOUT PGKEEP"]
    for part in _parts(kit):
        lines += ["", part.title.upper()] if part.title else []
        lines += textwrap.wrap(part.text, WIDTH)
        lines += [f"  {line}" for line in part.lines]
    return list(map(printable, lines))


def html_page(kit: Kit) -> str:
    """Return the page as HTML, with a QR code if there is one."""
    body = ["<h1>How to restore the backups without pgkeep</h1>"]
    for part in _parts(kit):
        body += [f"<h2>{html.escape(part.title)}</h2>"] if part.title else []
        body += [f"<p>{html.escape(printable(part.text))}</p>"] if part.text else []
        listed = html.escape("\n".join(map(printable, part.lines)))
        body += [f"<pre>{listed}</pre>"] if part.lines else []
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Recovery kit</title>\n'
        f"<style>{_STYLE}</style>\n" + "\n".join(body) + f"\n{kit.picture}\n</html>\n"
    )


def _parts(kit: Kit) -> Iterator[_Part]:
    names = [example.name for example in kit.examples]
    # The globals are in gzip, whatever the backup file is in.
    programs = ", ".join(
        sorted({str(name.cipher) for name in names})
        + sorted({"zcat", *(name.compression.program for name in names)})
    )
    yield _Part("", f"{kit.printed} {_ABOUT.format(programs=programs)}")
    yield _Part(
        "Recipients",
        "Each private key that belongs to one of these decrypts the newest backups alone.",
        tuple(f"{cipher}: {name}" for cipher, name in kit.recipients),
    )
    yield _Part("Where the private keys are kept", "_" * 60)
    yield _Part("Where the backups are", "", tuple(kit.stores))
    for number, example in enumerate(kit.examples):
        yield from _commands(kit, example, several=len(kit.examples) > 1, first=not number)
    if kit.private is not None:
        yield _Part(
            "Private key of age",
            "It decrypts all backups. Type it into a file, and name that with age -i.",
            (kit.private,),
        )


def _commands(kit: Kit, example: Example, *, several: bool, first: bool) -> Iterator[_Part]:
    """Yield the commands for a cipher; names of files are in the variables of the first lines."""
    name = example.name
    of = f" ({name.cipher})" if several else ""
    variables = [f"F={shlex.quote(name.artifact)}"]
    if example.roles:
        variables.append(f"G={shlex.quote(name.globals)}")
    yield _Part(
        f"1. Choose a backup{of}",
        "This one was the newest when the page was printed. List others with ls, or with aws s3 ls"
        " --recursive. Names contain database and time. If a backup has two files, its manifest"
        " names the valid one." if first else "",
        tuple(variables),
    )  # fmt: skip
    files = ["$F", "$F.sha256", *(["$G"] if example.roles else [])]
    if kit.bucket is not None:
        end = "" if kit.endpoint is None else f" --endpoint-url {shlex.quote(kit.endpoint)}"
        folder = shlex.quote(f"{kit.bucket}/{name.type}/")
        get = [f'aws s3 cp {folder}"{file}" .{end}' for file in files]
        yield _Part(f"2. Get its files from the bucket{of}", "", tuple(get))
    if kit.directory is not None:
        title = "or go to the directory" if kit.bucket is not None else "2. Go to the directory"
        yield _Part(f"{title}{of}", "", (f"cd {shlex.quote(kit.directory)}",))
    decrypt = "gpg -d"
    if name.cipher is Cipher.AGE:
        decrypt = f"age -d -i {shlex.quote(kit.identity)}"
    steps = ['sha256sum -c "$F.sha256"']
    if example.roles:
        steps.append(f'{decrypt} "$G" | zcat | psql -X -d postgres')
    steps += [
        f"createdb {example.create} NEWDB",
        f'{decrypt} "$F" | {name.compression.program} | psql -X -v ON_ERROR_STOP=1 -d NEWDB',
        "psql -X -d NEWDB -c ANALYZE",
    ]
    text = "NEWDB is the name of the new database." if first else ""
    yield _Part(f"3. Check, then roles, then the database{of}", text, tuple(steps))
