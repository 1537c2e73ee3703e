"""The manual pages, as the commands say.

`python -m tests.support.man_pages` writes them into the folder man, from which the wheel installs
them.
"""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from pgkeep.cli.command import SECTION
from pgkeep.cli.program import SECTIONS, group, imported
from pgkeep.settings import SETTINGS

FOLDER = Path(__file__).parents[2] / "man"
HELP = group.context_settings["help_option_names"]


def escaped(text: str) -> str:
    """Return a line of text that troff prints as it is."""
    line = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{line}" if line.startswith(".") else line


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text; those after \\b keep their lines."""
    for paragraph in filter(None, inspect.cleandoc(text).split("\n\n")):
        lines = paragraph.splitlines()
        yield ".PP"
        if lines[0] == "\b":
            yield from (".nf", *map(escaped, lines[1:]), ".fi")
        else:
            yield from map(escaped, lines)


def definitions(records: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield a list of names with their meanings."""
    for name, meaning in records:
        yield from (".TP", f".B {escaped(name)}", escaped(" ".join(meaning.split())))


def heading(title: str) -> str:
    """Return the heading of a section."""
    return f'.SH "{escaped(title.upper())}"'


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the options of a command by section, the common ones last."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            sections.setdefault(getattr(parameter, "section", SECTION), []).append(record)
    common = sections.pop(SECTION, [])
    yield heading("Options")
    for title, records in sections.items():
        yield f'.SS "{escaped(title)}"'
        yield from definitions(records)
    if sections:
        yield '.SS "Common options"'
    yield from definitions(common)


def page_of_command(name: str, text: str) -> str:
    """Return the page of a command."""
    command = imported(name)
    page = escaped(f"pgkeep-{name.replace(' ', '-')}")
    context = click.Context(command, info_name=f"pgkeep {name}", help_option_names=HELP)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        f'.TH "{page.upper()}" "1" "" "pgkeep" "pgkeep manual"',
        ".SH NAME",
        f"{page} \\- {escaped(text)}",
        ".SH SYNOPSIS",
        f".B pgkeep {name}",
        escaped(usage),
        ".SH DESCRIPTION",
        *paragraphs(command.help or ""),
        *paragraphs(command.epilog or ""),
        *options(command, context),
    ]
    for title, records in command.lists.items():
        lines += [heading(title), *definitions(records)]
    lines += [".SH EXAMPLES", ".nf", *map(escaped, command.examples), ".fi"]
    lines += [".SH SEE ALSO", ".BR pgkeep (1)"]
    return "\n".join(lines) + "\n"


def page_of_program() -> str:
    """Return the page of pgkeep itself."""
    context = click.Context(group, info_name="pgkeep", help_option_names=HELP)
    lines = [
        '.TH "PGKEEP" "1" "" "pgkeep" "pgkeep manual"',
        ".SH NAME",
        "pgkeep \\- back up PostgreSQL databases, restore them, and prove it",
        ".SH SYNOPSIS",
        ".B pgkeep",
        escaped("[OPTIONS] COMMAND [ARGS]..."),
        ".SH DESCRIPTION",
        *paragraphs(group.help or ""),
        *options(group, context),
    ]
    for title, commands in SECTIONS.items():
        lines.append(heading(title))
        for name, text in commands.items():
            page = escaped(f"pgkeep-{name.replace(' ', '-')}")
            lines += [".TP", f".BR {page} (1)", escaped(text)]
    lines.append(heading("Environment"))
    lines += definitions([(setting.variable, setting.help) for setting in SETTINGS])
    lines += [".SH NOTES", *paragraphs(group.epilog or "")]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Return every page by the name of its file."""
    commands = {
        f"pgkeep-{name.replace(' ', '-')}.1": page_of_command(name, text)
        for section in SECTIONS.values()
        for name, text in section.items()
    }
    return {"pgkeep.1": page_of_program(), **commands}


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.1"):
        path.unlink()
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
