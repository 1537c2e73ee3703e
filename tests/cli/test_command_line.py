"""What people expect of a command line: help, examples, verbosity, completion."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pgkeep.cli.program import COMMANDS, SECTIONS, group, imported
from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import faults, invoke, launcher, servers
from tests.support.invoke import on_terminal

SHELLS = ("bash", "zsh", "fish")


def arguments(example: str) -> list[str]:
    """Return the arguments of the first pgkeep in an example, up to the next pipe."""
    words = shlex.split(example, comments=True)
    words = words[words.index("pgkeep") + 1 :] if "pgkeep" in words else inner(example)
    end = next((n for n, word in enumerate(words) if word[:1] in set("|>&;")), len(words))
    return words[:end]


def inner(example: str) -> list[str]:
    """Return the arguments of the pgkeep in a $(...)."""
    found = re.search(r"\$\(pgkeep ([^|)]*)", example)
    return shlex.split(found[1]) if found else []


def test_every_command_is_in_one_section() -> None:
    shown = invoke.run("--help", env=invoke.environment())
    names = [name for commands in SECTIONS.values() for name in commands]
    assert sorted(names) == sorted({*names}) == sorted(COMMANDS)
    for title, commands in SECTIONS.items():
        section = shown.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        assert [re.split("  +", line.strip())[0] for line in section.splitlines()] == [*commands]


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_valid(name: str) -> None:
    """Each is parsed, and keeps to the rules between options."""
    command = imported(name)
    assert command.examples
    parsed = 0
    for example in command.examples:
        words = arguments(example)
        if not words:
            assert "pgkeep" not in example, example
            continue
        count = 1 if words[0] in COMMANDS else 2
        called = imported(" ".join(words[:count]))
        parent = click.Context(group, **group.context_settings)
        context = called.make_context(words[0], words[count:], parent=parent)
        called.check_rules(context)
        parsed += called is command
    assert parsed


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_terminal(name: str) -> None:
    for option in ("-h", "--help"):
        shown = invoke.run(*name.split(), option, env=invoke.environment())
    assert max(map(len, shown.partition("Examples:")[0].splitlines())) <= 80
    for option in ("--quiet", "--verbose"):
        assert option in shown


def test_version() -> None:
    shown = {invoke.run(option, env=invoke.environment()) for option in ("-V", "--version")}
    assert len(shown) == 1
    assert re.fullmatch(r"pgkeep \d+\.\d+\.\d+\n", shown.pop())


def output_of(*args: str, env: dict[str, str], code: int = 0) -> tuple[str, str]:
    process = launcher.start(args, env)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    return out, err


def test_quiet_and_verbose(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    name = database(pg17)
    servers.sql(pg17, name, "create table t (a int)")  # or a warning says that nothing is in it
    env = invoke.environment(pg17, name, BACKUP_DIR=str(tmp_path))
    assert output_of("backup", "--type=daily", "--quiet", env=env) == ("", "")
    (manifest,) = faults.published(tmp_path)
    artifact = tmp_path / manifest.replace(".manifest.json", ".sql.gz")
    assert output_of("-q", "verify", str(artifact), env=env) == ("", "")
    out, err = output_of("list", "--names", "-q", env=env)
    assert (out.strip(), err) == (artifact.name.removesuffix(".sql.gz"), "")
    assert json.loads(output_of("verify", "-q", "--json", str(artifact), env=env)[0])["checked"]
    out, err = output_of("restore", "-q", "--latest", env=env, code=9)
    assert (out, err.startswith("error: ")) == ("", True)
    secret = {"BACKUP_SERVE_TOKEN": "s3cret" * 4}
    out, err = output_of("backup", "--json", "-v", env=env | secret)
    assert json.loads(out)["backups"]
    for expected in (
        rf"BACKUP_DIR is {tmp_path}, from the environment",
        r"BACKUP_SERVE_TOKEN is \*{8}, from the environment",
        rf"connected to .*, database {name}, role \w+, server process \d+",
        r"started pg_dump, process \d+",
        r"pg_dump ended with status 0 after \d+\.\d s",
    ):
        assert re.search(rf"(?m)^\d\d:\d\d:\d\d {expected}$", err), (expected, err)
    assert "s3cret" not in err
    out, err = output_of("backup", "-v", env=env)
    assert re.search(r"(?m)^\d\d:\d\d:\d\d dumping: \d+\.\d s$", err), err
    said = output_of("backup", "-v", "-q", env=env, code=2)[1]
    assert said.startswith("error: --quiet and --verbose cannot be used together\n")


def test_several_databases_are_named(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """In each step, and in a line when one is finished; also above the bar of a terminal."""
    names = [database(pg17), database(pg17)]
    env = invoke.environment(
        pg17, "postgres", BACKUP_DIR=str(tmp_path), BACKUP_DATABASES=",".join([*names, "missing"])
    )
    out, err = output_of("backup", env=env, code=11)
    lines = [line[9:] for line in err.splitlines()]
    for name in names:
        assert f"{name}: dumping" in lines
        finished = lines.index(next(x for x in lines if x.startswith(f"{name}: finished, ")))
        assert finished > lines.index(f"{name}: dumping")
    assert any(line.startswith("missing: failed: ") for line in lines)
    assert "finished" not in out
    code, shown = on_terminal("backup", env=env | {"BACKUP_DATABASES": ",".join(names)})
    assert code == 0
    for name in names:
        assert re.search(rf"\d\d:\d\d:\d\d {name}: finished, 0 tables, .*\n", shown)
        assert f"{name}: dumping" in shown


# -- output that cannot be written

BUG = "from pgkeep.cli import program; program._run = lambda: 1 // 0; program.run()"
COMMANDS_AND_CODES = {
    "information": (["{pgkeep}", "list", "--dir={folder}", "--verbose"], 0),
    "error": (["{pgkeep}", "verify", "{folder}/missing.sql.gz"], 6),
    "error as JSON": (["{pgkeep}", "--log-format=json", "verify", "{folder}/missing.sql.gz"], 6),
    "bug": ([sys.executable, "-c", BUG], 1),
}


@pytest.mark.parametrize("target", ["a pipe without a reader", "a full disk"])
@pytest.mark.parametrize("name", COMMANDS_AND_CODES)
def test_standard_error_cannot_be_written(name: str, target: str, tmp_path: Path) -> None:
    """B31: Python would write it again at its end, fail again, and exit with 120."""
    words, code = COMMANDS_AND_CODES[name]
    command = [word.format(pgkeep=invoke.PGKEEP, folder=tmp_path) for word in words]
    if target == "a full disk":
        writer = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, writer = os.pipe()
        os.close(reader)
    try:
        done = subprocess.run(
            command, stderr=writer, stdout=subprocess.DEVNULL, env=invoke.environment(),
            check=False, timeout=60,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert done.returncode == code


# -- completion


def pgkeep_on_path(folder: Path) -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder)}


COMPLETE = {
    "bash": """
source completion
COMP_WORDS=({words}) COMP_CWORD={last}
_pgkeep_completion pgkeep
printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "zsh": """
compdef() {{ }}
compadd() {{ print -l -- "${{(@P)@[-1]}}" }}
_describe() {{ print -l -- "${{(@P)3}}" | sed 's/:.*//' }}
source ./completion
words=({words}) CURRENT=$(({last} + 1))
_pgkeep_completion
""",
    "fish": """
source completion
complete -C "{line}" | string split -f1 \\t
true
""",
}


def completed(shell: str, words: list[str], folder: Path) -> list[str]:
    """Return what a shell offers for the last word."""
    env = pgkeep_on_path(folder)
    script = subprocess.run(
        ["pgkeep", "completion", shell], env=env, capture_output=True, text=True, check=True
    )
    (folder / "completion").write_text(script.stdout)
    quoted = " ".join(shlex.quote(word) for word in words)
    text = COMPLETE[shell].format(words=quoted, last=len(words) - 1, line=" ".join(words))
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *options, "-c", text], env=env, capture_output=True, text=True, cwd=folder,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_in_a_shell(shell: str, tmp_path: Path) -> None:
    assert {"restore"} == {*completed(shell, ["pgkeep", "resto"], tmp_path)}
    first_words = {name.split()[0] for name in COMMANDS}
    assert first_words <= {*completed(shell, ["pgkeep", ""], tmp_path)}
    assert {"new", "check"} <= {*completed(shell, ["pgkeep", "key", ""], tmp_path)}
    options = completed(shell, ["pgkeep", "restore", "--no-"], tmp_path)
    assert {"--no-owner", "--no-privileges", "--no-analyze", "--no-swap", "--no-tablespaces"} == {
        *options
    }
    kinds = completed(shell, ["pgkeep", "backup", "--type", ""], tmp_path)
    assert {"daily", "weekly", "monthly", "manual", "auto"} == {*kinds}


def test_completion_scripts_of_all_shells() -> None:
    for shell in SHELLS:
        script = invoke.run("completion", shell, env=invoke.environment())
        assert "_PGKEEP_COMPLETE" in script
