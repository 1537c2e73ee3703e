"""Which databases a run backs up: exact names, patterns, exclusions (traps A3.15, A3.16).

Nothing is left out silently: a database that a pattern matches is backed up, excluded by a rule
that the report names, or failed.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from .unreadable import UNREADABLE
from .wildcards import ANY, regular_expression

EXPECTED = "names or patterns separated by commas, such as *,!scratch_*, or a JSON array of names"

# Databases that a pattern does not include, with the reason. An exact name includes them.
_TEMPLATE = "template of CREATE DATABASE"
_PROVIDER = "kept by the provider"
_BUILT_IN: Mapping[str, str] = {
    "template0": _TEMPLATE,
    "template1": _TEMPLATE,
    "rdsadmin": _PROVIDER,  # Amazon RDS and Aurora
    "cloudsqladmin": _PROVIDER,  # Google Cloud SQL
    "alloydbadmin": _PROVIDER,  # Google AlloyDB
    "alloydbmetadata": _PROVIDER,
    "azure_maintenance": _PROVIDER,  # Azure Database for PostgreSQL
    "azure_sys": _PROVIDER,
    "_dodb": _PROVIDER,  # DigitalOcean
}
# Databases that pgkeep itself created.
_OURS = {
    re.compile(r"__restore_[0-9a-f]{8}$"): "left behind by an interrupted restore",
    re.compile(r"__restored_[0-9]{8}T[0-9]{6}Z$"): "restored, and waits for a swap",
    re.compile(r"__old_[0-9]{8}T[0-9]{6}Z$"): "replaced by a restore",
    re.compile(r"^pgkeep_drill_[0-9a-f]{12}$"): "used by a drill that runs or was interrupted",
}


class Excluded(msgspec.Struct, frozen=True):
    """A database that a pattern matches and that is not backed up, and why."""

    database: str
    reason: str


class Choice(NamedTuple):
    """The databases of a server that a run backs up, and what is left of the selection."""

    chosen: list[str]  # exact names first
    excluded: list[Excluded]
    unmatched: list[str]  # patterns that match no database


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSelection:
    """The selection of databases of a run; empty if only the connected database is meant."""

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    exclusions: tuple[str, ...] = ()  # patterns

    def __bool__(self) -> bool:
        """Return whether anything is selected."""
        return bool(self.names or self.patterns)

    @classmethod
    def parse(cls, text: str) -> "DatabaseSelection":
        """Read names, patterns with `*` and `?`, and exclusions that begin with `!`.

        Raises:
            ValueError: contains what was expected.

        """
        if text.startswith("["):
            return cls(names=_json_names(text))
        parts = [part.strip() for part in text.split(",") if part.strip()]
        exclusions = [part[1:].strip() for part in parts if part.startswith("!")]
        included = [part for part in parts if not part.startswith("!")]
        if (text and not included) or not all(exclusions):
            raise ValueError(EXPECTED)
        return cls(
            names=tuple(dict.fromkeys(part for part in included if not _is_pattern(part))),
            patterns=tuple(dict.fromkeys(part for part in included if _is_pattern(part))),
            exclusions=tuple(dict.fromkeys(exclusions)),
        )

    def includes(self, name: str) -> bool:
        """Return whether a database is selected, if it exists; exact names override exclusions."""
        if name in self.names or not self:
            return True
        return any(_matches(pattern, name) for pattern in self.patterns) and not any(
            _matches(pattern, name) for pattern in self.exclusions
        )

    def choose(self, existing: Iterable[str], empty: Callable[[str], bool]) -> Choice:
        """Choose from the databases of a server; `empty` is asked about `postgres` only."""
        chosen, excluded, matched = list(self.names), list[Excluded](), set[str]()
        for name in existing:
            patterns = [pattern for pattern in self.patterns if _matches(pattern, name)]
            matched.update(patterns)
            if not patterns or name in self.names:
                continue
            reason = self._exclusion(name) or built_in_exclusion(name)
            if reason is None and name == "postgres" and empty(name):
                reason = "empty"
            if reason is None:
                chosen.append(name)
            else:
                excluded.append(Excluded(name, reason))
        unmatched = [pattern for pattern in self.patterns if pattern not in matched]
        return Choice(chosen, excluded, unmatched)

    def _exclusion(self, name: str) -> str | None:
        found = (pattern for pattern in self.exclusions if _matches(pattern, name))
        return next((f"excluded by !{pattern}" for pattern in found), None)


CONNECTED = DatabaseSelection()  # the database of the connection


def built_in_exclusion(name: str) -> str | None:
    """Return why a pattern never includes a database of this name, None if it does."""
    ours = (reason for pattern, reason in _OURS.items() if pattern.search(name))
    return _BUILT_IN.get(name) or next(ours, None)


def exclusion_of(name: str) -> str:
    """Return the exclusion of one database as BACKUP_DATABASES accepts it."""
    return "!" + re.sub(r",|^\s|\s$", "?", name)


def _is_pattern(part: str) -> bool:
    return "*" in part or "?" in part


def _matches(pattern: str, name: str) -> bool:
    """Match a complete name, with upper and lower case as they are."""
    parts = {"*": ANY, "?": "."}
    tokens = [parts.get(character) or re.escape(character) for character in pattern]
    return re.fullmatch(regular_expression(tokens), name, re.DOTALL) is not None


def _json_names(text: str) -> tuple[str, ...]:
    try:
        names = msgspec.json.decode(text, type=list[str])
    except UNREADABLE:
        names = []
    if not names or not all(names):
        raise ValueError(EXPECTED)
    return tuple(dict.fromkeys(names))
