"""What a load is asked for and what it returns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ... import errors as e
from ...artifact.file import Object
from ...postgres.connection import Connection, Endpoint
from ...sql.statements import Name
from .session import EntryText, Session, Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What to load, and how."""

    jobs: int
    schema: bool = True
    data: bool = True
    owner: bool = True
    privileges: bool = True
    one_transaction: bool = False  # by one session: all or nothing, at the price of time
    disable_triggers: bool = False  # user triggers and foreign keys; needs a superuser
    analyze: bool = True
    vacuum: bool = False
    adapt: Callable[[Object, bytes], EntryText | None] = lambda entry, text: (entry, text)
    skips_rows: Callable[[Object], bool] = lambda _: False  # of a table
    tolerates: Callable[[Object, bytes, e.RestoreFailed], bool] | None = None  # what has failed
    session: Callable[[Endpoint, Sequence[Statement]], Session] = lambda endpoint, header: Session(
        endpoint.connect(), header
    )
    settings: Sequence[Statement] = ()  # after those of the dump's header, before SQL or rows
    check: Callable[[Connection], None] = lambda _: None  # in the one transaction, at its end


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load has done."""

    rows: dict[Name, int]  # of each table
    warnings: list[str]
