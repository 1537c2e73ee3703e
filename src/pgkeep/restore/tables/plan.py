"""Which tables are restored and how, and the plan for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from ...postgres.connection import Endpoint
from ..search_path import SearchPath
from .selected import SelectedTables, TableFacts


class Conflict(StrEnum):
    """What happens to a row that exists already."""

    SKIP = "skip"
    UPDATE = "update"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class TablesOptions:
    """Which tables to restore, and how."""

    patterns: Sequence[str]
    target: str | None = None  # default: the database's own name
    new_name: str | None = None  # next to the existing table
    replace: bool = False
    where: str | None = None  # only the rows for which this is true
    conflict: Conflict = Conflict.SKIP
    disable_triggers: bool = False  # with a condition; needs a superuser
    owner: bool = True
    privileges: bool = True
    analyze: bool = True
    tablespaces: bool = True
    lock_timeout: float = 300.0  # seconds, for locks on existing tables
    search_path: SearchPath = SearchPath.EMPTY


class TablesSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What would be done, and what prevents it; for people and for JSON."""

    file: str
    source: str
    snapshot: str
    target: str
    tables: list[TableFacts]
    steps: list[str]
    problems: list[str] = []
    remedies: list[str] = []
    warnings: list[str] = []
    checked: list[str] = []  # what --dry-run has checked of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class TablesPlan:
    """One restore of tables that can be executed."""

    endpoint: Endpoint  # of the target database
    options: TablesOptions
    tables: SelectedTables
    target: str
    summary: TablesSummary

    @property
    def replaces(self) -> bool:
        """Tell whether existing tables would be dropped."""
        return self.options.replace


class TablesResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was done."""

    database: str
    tables: list[str]
    rows: int  # loaded; with a condition, those for which it is true
    written: int  # with a condition: inserted or updated; else the same
    seconds: float
    warnings: list[str] = []
