"""The numbers of decision records: those that the project has already used are not used again."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from .files import TemplateFile, is_text

FOLDER = "docs/adr"
DIGITS = 3  # of the numbers in the template
# Of adr-tools, of MADR, and others that are in use. `.adr-dir` of adr-tools names another one.
FOLDERS = (
    FOLDER, "doc/adr", "docs/adrs", "doc/adrs", "adr", "adrs", "docs/decisions", "doc/decisions",
    "docs/architecture/decisions", "doc/architecture/decisions", "docs/architecture/adr",
    "architecture/decisions",
)  # fmt: skip
RECORD = re.compile(r"(?:adr-?)?(\d{1,5})[-_](.+)\.(?:md|markdown|adoc|rst|txt)", re.IGNORECASE)


def renumbered(files: Iterable[TemplateFile], project: Path) -> list[TemplateFile]:
    """Return the files with numbers of records that are free in the project, wherever they are."""
    files = list(files)
    names = [Path(file.path).name for file in files if file.path.startswith(f"{FOLDER}/")]
    records = {match[2]: match[1] for match in map(RECORD.fullmatch, names) if match}
    numbers = chosen(records, existing(project))
    changed = {records[title]: number for title, number in numbers.items()}
    if all(old == new for old, new in changed.items()):
        return files
    titled = "|".join(f"{number}-{re.escape(title)}" for title, number in records.items())
    old = "|".join(changed)
    mention = re.compile(rf"(?<=\bADR-)(?:{old})\b|\b(?:{titled})|(?<=\[)(?:{old})(?=\]\()")

    def new(text: str) -> str:
        return mention.sub(lambda match: changed[match[0][:DIGITS]] + match[0][DIGITS:], text)

    return [
        replace(file, path=new(file.path), contents=new(file.contents.decode()).encode())
        if is_text(file)
        else file
        for file in files
    ]


def existing(project: Path) -> dict[str, set[str]]:
    """Return the titles of the records of the project, and the numbers of each, as written."""
    folders = {project / name for name in FOLDERS}
    setting = project / ".adr-dir"
    if setting.is_file():
        folders.add(project / setting.read_text("utf-8", errors="replace").strip())
    found: dict[str, set[str]] = {}
    for folder in sorted(folders):
        if folder.is_dir():
            for match in (RECORD.fullmatch(path.name) for path in folder.iterdir()):
                if match:
                    found.setdefault(match[2], set()).add(match[1])
    return found


def chosen(records: Mapping[str, str], existing: Mapping[str, set[str]]) -> dict[str, str]:
    """Return the number of each record: the one that it has in the project, else a free one."""
    others = {
        int(number) for title, numbers in existing.items() if title not in records
        for number in numbers
    }  # fmt: skip
    kept = {title: max(existing[title]) for title in records if title in existing}
    widths = {len(number) for numbers in existing.values() for number in numbers}
    width = max({DIGITS, *widths})
    taken = others | {int(number) for number in kept.values()}
    last = max(others, default=0)
    result = dict(kept)
    for title, number in sorted(records.items(), key=lambda item: item[1]):
        if title in kept:
            continue
        value = int(number)
        if value in taken:
            reserved = taken | {int(other) for other in records.values()}
            value = next(free for free in range(last + 1, last + 100000) if free not in reserved)
        taken.add(value)
        result[title] = f"{value:0{width}}"
    return result
