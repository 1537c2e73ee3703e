"""The events of the log that machines read (--log-format=json), one a line."""

from enum import StrEnum


class Event(StrEnum):
    """What a line reports. Names are stable: programs filter by them."""

    RUN_STARTED = "run_started"
    DATABASE_STARTED = "database_started"
    STEP = "step"
    PROGRESS = "progress"
    INFO = "info"
    WARNING = "warning"
    DATABASE_FINISHED = "database_finished"
    DATABASE_FAILED = "database_failed"
    RUN_FINISHED = "run_finished"
    ERROR = "error"
