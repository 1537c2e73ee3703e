"""The commands and their exit codes. Each has a module of its own, imported when it is used."""

import contextlib
import gc
import importlib
import os
import select
import sys
import threading
from types import TracebackType
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from .. import __version__, interrupts
from .. import errors as e
from ..interrupts import Interrupted
from .command import Command, verbosity_options
from .events import Event
from .output import Output, plugin, say

SECTIONS = {
    "Back up and restore": {
        "backup": "back up databases, each into one .sql.gz",
        "restore": "restore a backup",
        "swap": "put a restored database in the place of the existing one",
        "undo": "swap back to the database that was replaced",
    },
    "Prove": {
        "verify": "check that a backup, or any plain dump, is complete",
        "drill": "restore a backup into a temporary server and compare every row",
    },
    "Look into backups": {
        "list": "list backups",
        "show": "show the contents of a backup, or the first rows of a table",
        "cat": "print a backup, or a table of it, as plain SQL",
    },
    "Monitor": {
        "history": "list runs: who ran what, and how it ended",
        "status": "check every database against its backup goals",
        "serve": "show the status on a web page",
        "metrics": "print or serve metrics for Prometheus",
    },
    "Maintain": {
        "prune": "remove expired backups",
        "hold": "keep a backup until it is released, regardless of retention",
        "release": "release a backup that is held",
        "sync": "upload pending copies",
        "index": "make a backup from any plain dump of pg_dump",
        "adopt": "register existing dump files as backups",
    },
    "Keys of encrypted backups": {
        "key new": "create a private key of age, and print its public key",
        "key check": "find backups that a private key does not decrypt",
        "key kit": "print how to decrypt and restore backups without pgkeep",
        "rekey": "encrypt existing backups to other public keys",
    },
    "Restore to any second": {
        "pitr enable": "begin to store the WAL of a cluster",
        "pitr disable": "drop the replication slot",
        "pitr stream": "receive and store WAL, as a service",
        "pitr push": "archive a WAL file (archive_command)",
        "pitr fetch": "get a WAL file from the archive (restore_command)",
        "pitr base": "take a base backup, incremental if possible",
        "pitr verify": "read all base backups and WAL, name what is damaged",
        "pitr windows": "list the intervals in which every second can be restored",
        "pitr restore": "restore a cluster to a point in time",
    },
    "Set up": {
        "doctor": "find problems that would make a backup fail, with the fixes",
        "config": "print the settings and where they come from",
        "init": "add scripts, a schedule and a runbook to a project",
        "runbook": "print the recovery runbook with your hosts, names and backups",
        "completion": "print the script that completes commands in a shell",
        "demo": "back up and restore a temporary database",
    },
}
COMMANDS = {name: text for section in SECTIONS.values() for name, text in section.items()}
_FAMILIES = {
    "key": "Create and test the private keys of encrypted backups.",
    "pitr": "Restore a cluster to any second: WAL archive and base backups.",
}


def imported(name: str) -> Command:
    """Import a command from its module: `key new` from key_new."""
    module = importlib.import_module(f".{name.replace(' ', '_')}", __package__)
    command: Command = module.command
    return command


_output = Output()  # outlives the click context, so that the last line can be written


class Commands(click.Group):
    """A group that imports a command only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the first words of the names, by section."""
        del ctx
        return list(dict.fromkeys(name.split()[0] for name in COMMANDS))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command, or those of the commands that begin with this word."""
        del ctx
        if cmd_name in COMMANDS and " " not in cmd_name:
            return imported(cmd_name)
        family = [name for name in COMMANDS if name.startswith(f"{cmd_name} ")]
        if not family:
            return None
        commands: dict[str, click.Command] = {}
        for name in family:
            commands[name.split()[1]] = command = imported(name)
            command.short_help = COMMANDS[name]  # the beginning of its help is often too long
        return click.Group(cmd_name, commands, params=verbosity_options(), help=_FAMILIES[cmd_name])

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Report an interruption while arguments are read in the same way as `invoke` does."""
        try:
            return super().make_context(*args, **extra)
        except Interrupted as error:
            raise error.ended() from None

    def invoke(self, ctx: click.Context) -> Any:
        """Report an interruption ourselves: click writes an empty line, and forgets the signal."""
        try:
            return super().invoke(ctx)
        except Interrupted as error:
            raise error.ended() from None
        except click.Abort as error:  # from a prompt
            if isinstance(error.__context__, Interrupted):
                raise error.__context__.ended() from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section, without importing any."""
        del ctx
        width = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:{width}}", text) for name, text in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the names of commands without importing any."""
        options = click.Command.shell_complete(self, ctx, incomplete)
        texts = _FAMILIES | COMMANDS
        return options + [
            CompletionItem(name, help=texts[name])
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]


def _choose_format(ctx: click.Context, parameter: click.Parameter, value: str) -> None:
    del ctx, parameter
    _output.style = value  # at once, so that errors in the other arguments have this format too
    if value == "json":
        _output.capture()
        threading.excepthook = _ignored
        sys.unraisablehook = _ignored


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog="pgkeep COMMAND --help prints the options of a command, with examples. Exit codes: 0"
    " success, 1 unexpected error, 2 usage, 3 no connection, 4 dump failed, 5 verification failed,"
    " 6 store failed, 7 retention failed, 8 restore failed, 9 refused, 10 already running, 11 some"
    " databases failed.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    envvar="PGKEEP_LOG_FORMAT",
    expose_value=False,
    callback=_choose_format,
    help="Format of the messages on standard error (PGKEEP_LOG_FORMAT).",
)
@click.version_option(
    __version__, "-V", "--version", prog_name="pgkeep", message="%(prog)s %(version)s"
)
def group() -> None:
    """Back up PostgreSQL databases so that they can be restored.

    A backup is one plain .sql.gz that zcat and psql can restore. pgkeep writes and restores it with
    several connections, and can prove that it is complete.

    \b
    pgkeep backup                        back up the database that DATABASE_URL,
                                         POSTGRES_... or PG... name, to BACKUP_DIR
    pgkeep verify backups/app_*.sql.gz   check that the files are complete
    pgkeep restore --latest --target-db=app_copy
    """  # noqa: D301 - click wants the character, not a backslash and a b


group.params += verbosity_options()


def run() -> NoReturn:
    """Run the command line and exit with the exit code of its outcome."""
    _open_standard_streams()
    sys.excepthook = _unexpected
    try:
        interrupts.install()
        code = _run()
        _flush()
        interrupts.over()
    except Interrupted as error:  # outside of `_run`, or while it printed an error
        code = _failed(error.ended())
        _flush()
        interrupts.over()
    gc.freeze()  # Python's last collection would visit every object: a fifth of a short command
    sys.exit(code)


def _open_standard_streams() -> None:
    """Open closed streams: the next file would get their number, and our messages."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115


def _unexpected(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print the traceback of a bug, escaped: its message can contain text of others."""
    import traceback  # noqa: PLC0415

    lines = "".join(traceback.format_exception(kind, error, trace)).splitlines()
    if _output.style == "json":
        hint = "This is a bug in pgkeep: please report it."
        _output.event(Event.ERROR, lines[-1], "error", hint=hint, exit_code=1, traceback=lines)
    else:
        with contextlib.suppress(OSError):  # the exit code reports it too
            for line in lines:
                say(line, err=True)
    _flush()


def _ignored(found: "threading.ExceptHookArgs | sys.UnraisableHookArgs") -> None:
    """Print an exception of a thread or a destructor, which Python would print as text."""
    import traceback  # noqa: PLC0415

    lines = traceback.format_exception(found.exc_type, found.exc_value, found.exc_traceback)
    text = "".join(lines).splitlines()
    _output.warning(text[-1] if text else "unknown exception", traceback=text)


def _flush() -> None:
    """Write what is buffered, or drop it: Python would try again at its end, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            # After a signal nobody may read, and the flush would wait for a reader.
            if not interrupts.pending() or select.select([], [stream], [], 0)[1]:
                stream.flush()
                continue
        except OSError:
            pass
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run() -> int:  # noqa: PLR0911 - a return for each way to end
    try:
        code = group.main(standalone_mode=False, prog_name="pgkeep", obj=_output)
    except e.PgkeepError as error:
        return _failed(_cause(error))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return e.UsageError.exit_code
    except click.ClickException as error:
        return _failed(_usage_error(error))
    except (click.Abort, click.exceptions.Exit) as error:
        if isinstance(error.__cause__, Interrupted):  # where neither method of the group was active
            return _failed(error.__cause__.ended())
        return getattr(error, "exit_code", e.Refused.exit_code)
    except Interrupted as error:
        return _failed(error.ended())
    except OSError as error:
        return _failed(_cause(e.PgkeepError(_described(error))))
    except Exception as error:
        if interrupts.pending():
            return _failed(_cause(e.PgkeepError(str(error))))
        # Where an error of psycopg exists, psycopg is loaded; other commands do not load it.
        psycopg = sys.modules.get("psycopg")
        if psycopg is None or not isinstance(error, psycopg.Error):
            raise
        from ..postgres.messages import server_error  # noqa: PLC0415

        return _failed(server_error(error, e.ConnectionFailed))
    status = code if isinstance(code, int) else 0  # of ctx.exit
    _output.ended(status)
    return status


def _cause(error: e.PgkeepError) -> e.PgkeepError:
    """Return the signal if there was one: what failed afterwards is its consequence."""
    try:
        interrupts.check()
    except Interrupted as interrupted:
        return interrupted.ended()
    return error


def _described(error: OSError) -> str:
    """Describe an error of the system; without a file it is an error of our own output."""
    if error.filename is None:
        return f"could not write: {error}"
    return f"could not use {error.filename}: {error.strerror}"


def _usage_error(error: click.ClickException) -> e.UsageError:
    """Return an error of click in the style of PostgreSQL."""
    message = error.format_message().rstrip(".")
    command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else None
    hint = f"See {command} --help." if command else None
    return e.UsageError(message[:1].lower() + message[1:], hint=hint)


def _failed(error: e.PgkeepError) -> int:
    if "--nagios" in sys.argv and not interrupts.pending():
        from ..monitor import nagios  # noqa: PLC0415

        plugin(nagios.line(nagios.UNKNOWN, error.message))  # else its exit code is a state
        return nagios.UNKNOWN
    if "--json" in sys.argv and not _output.printed:
        import msgspec  # noqa: PLC0415

        record: dict[str, object] = {
            "error": error.message, "hint": error.hint, "exit_code": error.exit_code
        }  # fmt: skip
        if error.details:
            record["details"] = error.details
        if error.warnings:
            record["warnings"] = error.warnings
        with contextlib.suppress(OSError):  # the exit code reports it too
            click.echo(msgspec.json.encode(record))
    _output.failed(error)
    return error.exit_code
