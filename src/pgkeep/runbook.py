"""The recovery runbook with the values of a real server, to be printed on paper.

Its text is the runbook of the template. Commands are the same except for the name of the program.
Names are in the first block only, quoted for the shell: the other blocks use its variables.
"""

import re
import shlex
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .model import naming
from .model.manifest import Encryption, Manifest
from .model.naming import BackupType, Cipher
from .terminal import printable

PATH = "docs/operations/database-recovery.md"  # in a generated project
WIDTH = 80
EXAMPLE_TIME = "20261122T020000Z"
_CONDITION = re.compile(r"{% if (?:cookiecutter\.)?(\w+) (?:== 'yes'|is (not )?defined) %}")
_DATABASE = r"{{ cookiecutter\.postgres_db }}"
_BACKUP = re.compile(
    rf"(?P<folder>daily/)?{_DATABASE}_(?P<kind>daily|weekly|manual)_{EXAMPLE_TIME}"
    r"(?P<file>(?P<globals>\.globals)?\.sql\.gz(?:\.age)?)?"
)
_ENCRYPTED = re.compile(r"\bzcat (\S+\.(?:age|gpg))\b")
_BY_AGE = "age -d -i identity.txt"  # as the template decrypts by hand
_DECRYPT = {Cipher.AGE: 'age -d -i "$BACKUP_IDENTITY_FILE"', Cipher.GPG: "gpg -d"}
_BUCKET = "{{ cookiecutter.project_slug }}-backups"
_OBJECT = re.compile(rf"s3://{re.escape(_BUCKET)}/backups/(.+)")
_PROGRAMS = {
    "./scripts/db-restore.sh": "pgkeep restore",
    "./scripts/db-backup.sh": "pgkeep backup",
    "./scripts/pgkeep.sh": "pgkeep",
}
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
_LEAD = re.compile(r" *(?:\d+\. |- )?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """What takes the place of the template's examples."""

    database: str
    backups: Sequence[Manifest]  # complete ones of the database, oldest first
    exports: Mapping[str, str]
    secrets: Sequence[str]  # names of variables
    bucket: str | None
    prefix: str
    several: bool  # whether the stores have backups of other databases
    facts: Sequence[str]  # lines of Markdown
    major: str
    encryption: Encryption | None = None  # of new backups, else of the newest one
    pitr: bool = False  # whether a store has WAL and base backups


def render(text: str, values: Values) -> list[str]:
    """Return the lines of the runbook, at most 80 characters long except for commands."""
    chosen = {"paper"}
    if values.bucket is not None:
        chosen.add("include_s3")
    if values.encryption is not None:
        chosen.add("include_encryption")
    if values.pitr:
        chosen.add("include_pitr")
    lines = (line for part in selected(text, chosen) for line in _filled(part, values))
    return list(_wrapped(_decompressing(lines)))


def selected(text: str, chosen: Collection[str]) -> Iterator[str]:
    """Yield the lines of the template for the chosen parts, as Jinja would."""
    applies = [True]
    for line in text.splitlines():
        if condition := _CONDITION.fullmatch(line):
            applies.append((condition[1] in chosen) != bool(condition[2]))
        elif line == "{% else %}":
            applies[-1] = not applies[-1]
        elif line == "{% endif %}":
            applies.pop()
        elif all(applies):
            yield line


def _decompressing(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines with the program that reads backup files in zstd."""
    continued = False  # a command whose file is on the line before
    for line in lines:
        names = f".sql{naming.Compression.ZSTD.suffix}" in line
        shown = line
        if names or continued:
            shown = re.sub(r"\bzcat\b", naming.Compression.ZSTD.program, line)
        continued = names and line.endswith("|")
        yield shown


def _filled(line: str, values: Values) -> list[str]:
    if line == "{{ facts }}":
        return list(values.facts)
    if line == "{{ exports }}":
        return [f"   {command}" for command in exports(values.exports)]
    line = line.replace("{{ secrets }}", ", ".join(f"`{name}`" for name in values.secrets))
    line = _OBJECT.sub(lambda found: _object(found[1], values), line)
    line = line.replace(_BUCKET, values.bucket or "").replace(
        "--prefix backups/", f"--prefix {quoted(values.prefix)}"
    )
    line = _BACKUP.sub(lambda found: _backup(found, values), line)
    if values.encryption is not None:
        line = _decrypting(line, values.encryption)
    line = re.sub(_DATABASE, lambda _: printable(values.database), line)
    line = line.replace("{{ cookiecutter.postgres_version }}", values.major)
    for script, program in _PROGRAMS.items():
        line = line.replace(script, program)
    if values.several and line.lstrip().startswith("pgkeep "):
        line = line.replace(" --latest", ' --latest --database="$PGDATABASE"')
    return [line]


def _decrypting(line: str, encryption: Encryption) -> str:
    """Fill in the keys, and decrypt files before they are decompressed."""
    decrypt = _DECRYPT[encryption.cipher]
    line = line.replace("{{ suffix }}", f".{encryption.cipher}").replace(_BY_AGE, decrypt)
    line = line.replace("{{ recipients }}", ", ".join(f"`{key}`" for key in encryption.recipients))
    return _ENCRYPTED.sub(rf"{decrypt} \1 | zcat", line)


def _object(key: str, values: Values) -> str:
    key = _BACKUP.sub(lambda found: _backup(found, values), key)
    return quoted(f"s3://{values.bucket}/{values.prefix}{key}")


def _backup(found: re.Match[str], values: Values) -> str:
    """Return the newest backup, the one before it, or the newest manual one; else the example."""
    kind = BackupType(found["kind"])
    of_kind = {
        BackupType.DAILY: values.backups[-1:],
        BackupType.WEEKLY: values.backups[-2:-1],
        BackupType.MANUAL: [manifest for manifest in values.backups if manifest.type == kind][-1:],
    }[kind]
    stem = f"{naming.encode_database(values.database)}_{kind}_{EXAMPLE_TIME}"
    name = naming.parse(f"{stem}{naming.MANIFEST}")
    if name is not None and values.encryption is not None:
        name = replace(name, cipher=values.encryption.cipher)
    for manifest in of_kind:
        name = manifest.name
    assert name is not None  # noqa: S101 - the example is a name
    text = name.stem
    if found["file"]:
        text = name.globals if found["globals"] else name.artifact
    return f"{name.type}/{text}" if found["folder"] else text


def exports(variables: Mapping[str, str]) -> list[str]:
    """Return the commands that set variables for psql and pgkeep."""
    return [f"export {name}={quoted(value)}" for name, value in variables.items()]


def quoted(text: str) -> str:
    """Return a text as one word of the shell, without control characters."""
    if text.isprintable():
        return shlex.quote(text)
    parts = (
        character
        if character.isalnum() and character.isprintable()
        else "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
        for character in text
    )
    return f"\"$(printf '{''.join(parts)}')\""


def _wrapped(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines without links, tables as lists; nothing in a block of code is changed."""
    fence = False
    for line in lines:
        if line.lstrip().startswith("```"):
            fence = not fence
            yield line
        elif fence or not line:
            yield line
        elif not line.startswith(("|---", "| message ")):
            plain = _LINK.sub(r"\1", line)
            if plain.startswith("| "):
                plain = "- " + ": ".join(cell.strip() for cell in plain.strip("| ").split(" | "))
            lead = _LEAD.match(plain)
            assert lead is not None  # noqa: S101 - an empty lead matches
            yield from textwrap.wrap(
                plain[lead.end() :], WIDTH, initial_indent=lead[0],
                subsequent_indent=" " * len(lead[0]), break_long_words=False,
                break_on_hyphens=False,
            )  # fmt: skip
