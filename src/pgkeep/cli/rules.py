"""Rules between options: which cannot be used together, and which require others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import click
from click.core import ParameterSource


@dataclass(frozen=True, slots=True)
class OneOf:
    """Exactly one of these options is required."""

    options: tuple[str, ...]

    def problem(self, given: frozenset[str]) -> str | None:
        """Return what is wrong with the options that were given, if anything."""
        if len(given.intersection(self.options)) == 1:
            return None
        return f"either {' or '.join(self.options)} is required"


@dataclass(frozen=True, slots=True)
class AtMostOne:
    """These options cannot be used together."""

    options: tuple[str, ...]
    instead: str = ""  # what to do instead

    def problem(self, given: frozenset[str]) -> str | None:
        """Return what is wrong with the options that were given, if anything."""
        used = [option for option in self.options if option in given]
        if len(used) < 2:
            return None
        options = " and ".join(used)
        if self.instead:
            return f"{options} cannot be used together: {self.instead}"
        return f"{options} cannot be used together"


@dataclass(frozen=True, slots=True)
class Requires:
    """An option requires one of some others."""

    option: str
    needed: tuple[str, ...]

    def problem(self, given: frozenset[str]) -> str | None:
        """Return what is wrong with the options that were given, if anything."""
        if self.option not in given or given.intersection(self.needed):
            return None
        return f"{self.option} requires {' or '.join(self.needed)}"


Rule = OneOf | AtMostOne | Requires


def each_with(option: str, others: Iterable[str]) -> list[AtMostOne]:
    """Return the rules that an option cannot be used with any of some others."""
    return [AtMostOne((option, other)) for other in others]


def problem(rules: Sequence[Rule], given: frozenset[str]) -> str | None:
    """Return the first problem of the options that were given."""
    return next((found for rule in rules if (found := rule.problem(given)) is not None), None)


def given_options(context: click.Context) -> frozenset[str]:
    """Return the long names of the options on the command line."""
    return frozenset(
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if isinstance(parameter, click.Option)
        and context.get_parameter_source(str(parameter.name)) == ParameterSource.COMMANDLINE
    )
