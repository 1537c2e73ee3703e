"""One exception tree; each class carries the exit code that the command line returns for it.

PgkeepError (1)
 ├── UsageError (2)          a setting or an argument is wrong
 ├── ConnectionFailed (3)    the server cannot be reached or refuses the role
 ├── DumpFailed (4)          the database could not be dumped whole
 ├── VerificationFailed (5)  an artifact is not what it claims to be
 ├── StoreError (6)          reading or writing a store failed
 │    ├── AccessDenied (6)   the identity may not do that
 │    ├── Missing (6)        there is no such file
 │    └── Retained (6)       the store keeps the file until a date
 ├── RetentionFailed (7)     old backups could not be removed
 ├── RestoreFailed (8)       the artifact could not be brought back
 ├── Refused (9)             nothing was done, on purpose
 ├── AlreadyRunning (10)     another run works on the same database
 ├── SomeFailed (11)         several databases: at least one failed
 └── ProgramFailed (1)       a client program failed; verbs say of what step

Messages follow PostgreSQL's style guide: lower-case, no full stop; hints are sentences.
"""

from collections.abc import Sequence


class PgkeepError(Exception):
    """Base of everything that pgkeep raises on purpose.

    The hint says what to do about it. Details are printed below the message, one a line. The exit
    code is that of the class; an error that repeats a recorded failure is given its code.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        details: Sequence[str] = (),
        exit_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)
        self.warnings: Sequence[str] = ()  # of a plan, which may explain the failure
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(PgkeepError):
    """A setting, an argument or their combination makes no sense."""

    exit_code = 2


class ConnectionFailed(PgkeepError):
    """The server cannot be reached, or refuses this role or database."""

    exit_code = 3


class DumpFailed(PgkeepError):
    """The database could not be dumped whole; nothing was published."""

    exit_code = 4


class VerificationFailed(PgkeepError):
    """An artifact is cut, changed, unfinished, or disagrees with its side files."""

    exit_code = 5


class StoreError(PgkeepError):
    """A store could not be read or written."""

    exit_code = 6


class AccessDenied(StoreError):
    """A store lets this identity not do that; others may."""


class Missing(StoreError):
    """A store has no such file."""


class Retained(StoreError):
    """A store keeps a file until a date, by Object Lock for instance."""


class RetentionFailed(PgkeepError):
    """Old backups could not be removed, or removing them would be dangerous."""

    exit_code = 7


class RestoreFailed(PgkeepError):
    """An artifact could not be restored; an existing database was left as it was."""

    exit_code = 8


class Refused(PgkeepError):
    """Nothing was done: the action needs a consent or a precondition that is missing."""

    exit_code = 9


class AlreadyRunning(PgkeepError):
    """Another run works on the same database or directory."""

    exit_code = 10


class SomeFailed(PgkeepError):
    """Of several databases at least one failed; the others are done."""

    exit_code = 11


class ProgramFailed(PgkeepError):
    """One of PostgreSQL's programs ended badly; callers turn this into their own error."""

    def __init__(self, program: str, how: str, said: list[str]) -> None:
        super().__init__(f"{program} failed ({how}): {'; '.join(said[-5:]) or 'no message'}")
        self.program = program
        self.said = said
