"""Bake the template, read its documents as a reader does, and run what they say."""

import fcntl
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jinja2
from cookiecutter.main import cookiecutter
from markdown_it import MarkdownIt
from markdown_it.token import Token

from pgkeep.postgres.server import Server
from pgkeep.scaffold.wheel import own_wheel
from tests.support import invoke, launcher, servers
from tests.support.fork_client import READ_AT_START
from tests.support.servers import SETTINGS

TEMPLATE = Path(__file__).parents[2] / "template"
OPTIONS = (
    "include_kubernetes", "include_observability", "include_s3", "include_encryption",
    "include_github_actions",
)  # fmt: skip
# Half of all: any four options have every combination among them.
COMBINATIONS = [
    dict(zip(OPTIONS, values, strict=True))
    for values in itertools.product(("yes", "no"), repeat=len(OPTIONS))
    if values.count("no") % 2 == 0
]
for values in COMBINATIONS:
    # Not one more option, which would double the number of projects.
    rest = [values[name] for name in ("include_kubernetes", "include_observability", "include_s3")]
    values["include_pitr"] = "no" if rest.count("no") % 2 else "yes"
# What the documents use as an example.
EXAMPLE_TIME = "20261122T020000Z"
TIMESTAMP = r"\d{8}T\d{6}Z"


def bake(folder: Path, **values: str) -> Path:
    """Let cookiecutter make a project, with nothing of the user's own configuration."""
    settings = folder / "cookiecutter.yaml"
    settings.write_text(f"cookiecutters_dir: {folder}/templates\nreplay_dir: {folder}/replay\n")
    with patch.object(jinja2.Environment, "compile", _compiled):
        made = cookiecutter(
            str(TEMPLATE),
            no_input=True,
            extra_context=values,
            output_dir=str(folder),
            config_file=str(settings),
        )
    return Path(made)


_compile = jinja2.Environment.compile
_code: dict[tuple[str | None, ...], Any] = {}


def _compiled(environment: jinja2.Environment, *source: str | None) -> Any:
    """Compile each file once, not for every project: that takes two thirds of its time."""
    if source not in _code:
        _code[source] = _compile(environment, *source)  # type: ignore[call-overload]
    return _code[source]


def name_of(combination: Mapping[str, str]) -> str:
    """Return a short name, such as `yes-no-yes-yes-no`."""
    return "-".join(combination[name] for name in OPTIONS)


def has_pitr(name: str) -> bool:
    """Whether the project of this name has include_pitr."""
    (found,) = [values for values in COMBINATIONS if name_of(values) == name]
    return found["include_pitr"] == "yes"


def combinations(folder: Path) -> dict[str, Path]:
    """Return a project for every combination; the first worker of pytest-xdist makes them all."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        paths = folder / "paths.json"
        if not paths.exists():
            made = own_wheel()
            wheel = folder / made.name
            wheel.write_bytes(made.contents)
            baked = {}
            for values in COMBINATIONS:
                own = folder / name_of(values)
                own.mkdir()
                baked[own.name] = str(bake(own, pgkeep_source=str(wheel), **values))
            paths.write_text(json.dumps(baked))
    return {name: Path(path) for name, path in json.loads(paths.read_text()).items()}


def files(project: Path, pattern: str = "*") -> list[Path]:
    """Return the files of a project that are text: all but the wheel of pgkeep."""
    return sorted(
        path for path in project.rglob(pattern) if path.is_file() and path.suffix != ".whl"
    )


def distinct(projects: list[Path], pattern: str, folder: Path) -> Path:
    """Copy files of all projects into one folder, each text once: slow tools need no more."""
    folder.mkdir()
    seen: set[bytes] = set()
    for project in projects:
        for path in files(project, pattern):
            contents = path.read_bytes()
            if contents not in seen:
                seen.add(contents)
                target = folder / str(len(seen)) / path.relative_to(project)
                target.parent.mkdir(parents=True)
                shutil.copy(path, target)
    assert seen
    return folder


def run(command: list[str], cwd: Path | None = None) -> str:
    """Run a tool that must find nothing wrong."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# -- documents


@dataclass
class Block:
    """A piece of code in a document, and what one should see after it."""

    section: str
    language: str
    text: str
    expected: list[str] = field(default_factory=list)


@cache
def _tokens(text: str) -> list[Token]:
    """Return the parts of a document; many projects have the same one."""
    return MarkdownIt("commonmark").enable("table").parse(text)


def blocks(document: Path) -> list[Block]:
    """Return the code of a document; text that follows code is what its output should be."""
    found: list[Block] = []
    section, heading = "", False
    for token in _tokens(document.read_text()):
        if token.type == "heading_open":
            heading = True
        elif heading and token.type == "inline":
            section, heading = token.content, False
        elif token.type == "fence":
            previous = found[-1] if found else None
            if token.info == "text" and previous and previous.section == section:
                assert previous.language == "sh", f"{section}: output of nothing that is run"
                previous.expected = token.content.splitlines()
            else:
                found.append(Block(section, token.info, token.content))
    return found


def sections(document: Path) -> list[str]:
    """Return the headings."""
    tokens = _tokens(document.read_text())
    return [
        inline.content
        for opening, inline in itertools.pairwise(tokens)
        if opening.type == "heading_open"
    ]


def anchors(document: Path) -> set[str]:
    """Return what a link can point to, as GitHub makes it of the headings."""
    plain = (re.sub(r"[`*]", "", heading).lower() for heading in sections(document))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def links(document: Path) -> list[str]:
    """Return the targets of all links."""
    return [
        str(child.attrs["href"])
        for token in _tokens(document.read_text())
        for child in token.children or []
        if child.type == "link_open"
    ]


def section_text(document: Path, heading: str) -> str:
    """Return what stands below a heading, up to the next one."""
    rule = rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)"
    (found,) = re.findall(rule, document.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def table(document: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its first row."""
    found = re.search(r"(?:^\|.*\|\n)+", section_text(document, heading), re.MULTILINE)
    assert found is not None, heading
    rows = [line.strip("|") for line in found[0].splitlines()]
    return [
        [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", row)]
        for row in rows[2:]
    ]


def pattern(line: str) -> str:
    """Return what a line of a document stands for: times, sizes and ages differ."""
    rules = [
        (r"\d{4}-\d\d-\d\d \d\d:\d\d", r"\d{4}-\d\d-\d\d \d\d:\d\d"),
        (TIMESTAMP, TIMESTAMP),
        (r"[\d.]+ (?:B|kB|MB|GB)\b", r"[\d.]+ (?:B|kB|MB|GB)"),
        (r"[\d.]+ s\b", r"[\d.]+ s"),
        (r"\d+ h\b", r"(?:now|\d+ (?:min|h|d))"),
        (r"\.\.\.", r".*"),
        (r"\s+", r"\s+"),
    ]
    anything = re.compile("|".join(f"({found})" for found, _ in rules))
    parts, end = [], 0
    for match in anything.finditer(line):
        parts.append(re.escape(line[end : match.start()]))
        assert match.lastindex is not None
        parts.append(rules[match.lastindex - 1][1])
        end = match.end()
    return "".join([*parts, re.escape(line[end:])])


def assert_shown(expected: list[str], output: str) -> None:
    """Every line that one should see is in the output, in this order."""
    lines = iter(output.splitlines())
    for wanted in expected:
        rule = re.compile(pattern(wanted.strip()))
        assert any(rule.fullmatch(line.strip()) for line in lines), f"{wanted!r} not in\n{output}"


# -- a project at work

ORDERS = """
create table orders (
    id int generated always as identity primary key, customer text not null,
    total numeric not null, placed date not null
);
create index on orders (customer);
create table items (order_id int references orders (id), what text);
insert into orders (customer, total, placed)
values ('a', 1, '2026-01-01'), ('b', 2, '2026-02-01'), ('c', 3, '2026-03-01'),
       ('d', 4, '2026-04-01');
insert into items values (3, 'x'), (3, 'y'), (4, 'z');
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def server(port: int, major: int = 17) -> Server:
    """A server as the documents know it: on localhost."""
    settings = {**SETTINGS, "listen_addresses": "localhost", "port": str(port)}
    return Server(servers.bin_folder(major), settings=settings, directory=servers.data_folder())


def with_roles(running: Server) -> None:
    """Add the role of the template, one that may read its tables, and one that may nothing."""
    for role in ("app superuser", "reader", "stranger"):
        servers.sql(running, "postgres", f"create role {role} login")


def shell_environment(project: Path, major: int = 17, **extra: str) -> dict[str, str]:
    """What a person has in a shell: a language, and pgkeep and the client programs on PATH."""
    folders = [
        launcher.folder(), Path(invoke.PGKEEP).parent, servers.bin_folder(major), "/usr/bin", "/bin"
    ]  # fmt: skip
    language = {name: value for name, value in os.environ.items() if name.startswith(READ_AT_START)}
    path = os.pathsep.join(map(str, folders))
    return {**language, "PATH": path, "HOME": str(project.parent), **extra}


def shell(
    project: Path, script: str, *, code: int = 0, env: Mapping[str, str] | None = None
) -> str:
    """Run a script in the project's folder; return all that it shows."""
    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=project,
        env=dict(env) if env is not None else shell_environment(project),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, f"{script}\nexit {done.returncode}:\n{done.stdout}"
    return done.stdout


def newest(project: Path, kind: str) -> str:
    """Return the time in the name of the newest backup of a type."""
    found = sorted((project / "backups").glob(f"app_{kind}_*Z.manifest.json"))
    assert found, f"no {kind} backup"
    match = re.search(TIMESTAMP, found[-1].name)
    assert match is not None
    return match[0]


def as_here(project: Path, running: Server, text: str) -> str:
    """Put the times of this project's backups, and of replaced databases, for the example's."""
    for kind in set(re.findall(rf"app_([a-z]+)_{EXAMPLE_TIME}", text)):
        text = text.replace(f"app_{kind}_{EXAMPLE_TIME}", f"app_{kind}_{newest(project, kind)}")
    for state in ("old", "restored"):
        example = f"__{state}_{EXAMPLE_TIME}"
        if example in text:
            query = f"select datname from pg_database where datname ~ '__{state}_'"
            ((name,),) = servers.sql(running, "postgres", query)
            text = text.replace(example, name[name.index(f"__{state}_") :])
    return text


def play(
    project: Path, running: Server, some: list[Block], before: str = "", major: int = 17
) -> Iterator[Block]:
    """Run blocks one after the other; what one exports holds for the next. Yields before each."""
    exports = before
    for block in some:
        yield block
        script = as_here(project, running, block.text)
        output = shell(project, f"{exports}\n{script}", env=shell_environment(project, major))
        assert_shown(block.expected, output)
        exports += "".join(
            f"{line}\n" for line in block.text.splitlines() if re.match("export|unset ", line)
        )


def peak(page: str) -> int:
    """Return the most memory, in MiB, that the benchmarks measured of backups and restores.

    Of point in time, a project runs the receiver and base backups, which need less; its restore and
    the service of fetch include a server or segments that are fetched ahead. An upload holds up to
    four parts, and gpg is one more process: a project's reference names the parts.
    """
    others = re.compile(r" pitr |bucket`|\((?:age|GPG)\)`")
    ours = [line for line in page.splitlines() if "`pgkeep " in line and not others.search(line)]
    return max(int(mib) for line in ours for mib in re.findall(r"(\d+) MiB", line))
