"""The stanzas of pgBackRest that the settings name, for commands that report on them."""

import contextlib
import time
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from .. import errors as e
from ..config import Config
from .background import BackgroundTask

if TYPE_CHECKING:
    from ..monitor.pgbackrest import StanzaState

READING = 30.0  # seconds


def stanzas_of(config: Config, now: datetime) -> "list[StanzaState]":
    """Return the state of every stanza; one that cannot be read has a problem."""
    names = config.settings.pgbackrest_stanzas
    if not names:
        return []
    from ..monitor import pgbackrest  # noqa: PLC0415 - few use it

    found: dict[str, StanzaState] = {}
    tasks = {
        name: BackgroundTask("pgbackrest info", partial(_read, config, name, now, found))
        for name in names
    }
    deadline = time.monotonic() + READING
    for name, task in tasks.items():
        problem = task.problem(deadline)
        if problem is not None:
            found[name] = pgbackrest.unreadable(name, problem, config.target)
    return [found[name] for name in names]


def _read(config: Config, name: str, now: datetime, found: "dict[str, StanzaState]") -> None:
    from ..drill import pgbackrest as program  # noqa: PLC0415
    from ..drill import pitr_result  # noqa: PLC0415
    from ..monitor import pgbackrest  # noqa: PLC0415
    from ..pitr import location  # noqa: PLC0415

    stanza = program.info(name)
    drill = None
    if stanza.system_identifier is not None:
        for store in location.drill_stores(config, stanza.system_identifier):
            with contextlib.suppress(e.StoreError, e.VerificationFailed):
                drill = pitr_result.last(store)
            if drill is not None:
                break
    settings = config.settings
    goals = pgbackrest.Goals(
        max_age=settings.max_age, drill_max_age=settings.drill_max_age, rto=settings.rto
    )
    found[name] = pgbackrest.judge(stanza, drill, goals, now, config.target)
