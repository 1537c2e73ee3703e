"""A command: its options in sections, rules between them, its examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from .. import __version__
from .output import Output, Verbosity
from .rules import Rule, given_options, problem

SECTION = "Options"


class Option(click.Option):
    """An option that the help lists in a section of its own."""

    def __init__(self, *args: Any, section: str = SECTION, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section = section


def verbosity_options() -> list[click.Parameter]:
    """Return --quiet and --verbose; they take effect at once, also for errors of other options."""
    return [
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=_choose_verbosity(Verbosity.QUIET),
            help="Print only warnings, errors, and the output that was asked for.",
        ),
        click.Option(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            callback=_choose_verbosity(Verbosity.VERBOSE),
            help="Print also connections, programs, and the time of each step.",
        ),
    ]


def _choose_verbosity(chosen: Verbosity) -> Callable[[click.Context, click.Parameter, bool], None]:
    def choose(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        out = context.find_object(Output)
        if not value or out is None:
            return
        if out.verbosity not in (Verbosity.NORMAL, chosen):
            raise click.UsageError("--quiet and --verbose cannot be used together", context)
        if chosen == Verbosity.VERBOSE and out.verbosity != chosen:
            out.log()
        out.verbosity = chosen

    return choose


class Command(click.Command):
    """A command of pgkeep."""

    def __init__(
        self,
        *args: Any,
        examples: Sequence[str] = (),
        rules: Sequence[Rule] = (),
        lists: Mapping[str, Sequence[tuple[str, str]]] | None = None,
        recorded: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.params += verbosity_options()
        self.recorded = recorded  # whether its runs leave a record
        self.examples = examples
        self.rules = rules
        self.lists = lists or {}  # by title, of names with their meanings

    def invoke(self, ctx: click.Context) -> Any:
        """Check the rules between the options before anything is done."""
        self.check_rules(ctx)
        if (out := ctx.find_object(Output)) is not None:
            out.started(ctx.command_path, __version__)
        if not self.recorded or ctx.params.get("dry_run") or ctx.params.get("verify_only"):
            return super().invoke(ctx)
        from .run_end import recorded  # noqa: PLC0415 - other commands save the time

        with recorded(ctx):
            return super().invoke(ctx)

    def check_rules(self, context: click.Context) -> None:
        """Refuse options that the rules do not allow.

        Raises:
            UsageError: of click, with the first problem.

        """
        if (found := problem(self.rules, given_options(context))) is not None:
            raise click.UsageError(found, context)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the options by section; those without one come last, as the common ones."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                section = getattr(parameter, "section", SECTION)
                sections.setdefault(section, []).append(record)
        common = sections.pop(SECTION, [])
        for title, records in [*sections.items(), (SECTION, common)]:
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the examples, the epilog, then the lists."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")
        super().format_epilog(ctx, formatter)
        for title, records in self.lists.items():
            with formatter.section(title):
                formatter.write_dl(records)


def pgkeep_command(
    name: str,
    *,
    examples: Sequence[str],
    rules: Sequence[Rule] = (),
    epilog: str | None = None,
    lists: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    recorded: bool = False,
) -> Callable[[Callable[..., Any]], Command]:
    """Return the decorator that makes a command of a function.

    The runs of a command that changes or restores something are recorded in the stores.
    """
    return click.command(
        name, cls=Command, examples=examples, rules=rules, epilog=epilog, lists=lists,
        recorded=recorded,
    )  # fmt: skip
