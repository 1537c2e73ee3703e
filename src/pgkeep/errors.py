"""The exception tree; each class has the exit code that the command line returns for it.

PgkeepError (1)
 ├── UsageError (2)          invalid setting or argument
 │    └── NoKey (2)          no private key for an encrypted file
 ├── ConnectionFailed (3)    server not reachable, or role rejected
 │    ├── Crowded (3)        the server answers, but has no free connection
 │    └── OtherServer (3)    a connection reached another server than the first one
 ├── DumpFailed (4)          the database could not be dumped completely
 ├── VerificationFailed (5)  damaged, truncated or unexpected backup file
 │    ├── NotPlainDump (5)   a file of another format
 │    └── OtherKey (5)       the given private keys do not decrypt the file
 ├── StoreError (6)          reading or writing a store failed
 │    ├── AccessDenied (6)   permission denied
 │    ├── Missing (6)        file not found
 │    ├── Exists (6)         a file that must be new exists
 │    ├── Differs (6)        the WAL archive has another file under the same name
 │    └── Retained (6)       the store retains the file until a date
 ├── RetentionFailed (7)     old backups could not be removed
 ├── RestoreFailed (8)       the backup could not be restored
 │    └── ExtensionFailed (8) an extension could not be created
 ├── Refused (9)             nothing was done, on purpose
 │    └── NoSpace (9)        what is temporary does not fit into a directory
 ├── AlreadyRunning (10)     another run works on the same database
 ├── SomeFailed (11)         several databases: at least one failed
 └── ProgramFailed (1)       a client program failed; callers convert it to their own error

Messages follow PostgreSQL's style guide: lower-case, no full stop; hints are sentences.
"""

from collections.abc import Sequence


class PgkeepError(Exception):
    """Base class of all errors that pgkeep raises on purpose.

    The hint says how to fix the problem. Details are printed below the message, one per line. The
    exit code is that of the class, unless `exit_code` repeats that of a recorded failure.
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
        self.warnings: Sequence[str] = ()  # of a plan; they can explain the failure
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(PgkeepError):
    """A setting, an argument or their combination is invalid."""

    exit_code = 2


class NoKey(UsageError):
    """A file is encrypted, and no private key is given."""


class ConnectionFailed(PgkeepError):
    """The server cannot be reached, or rejects this role or database."""

    exit_code = 3


class Crowded(ConnectionFailed):
    """The server answers, but has no free connection."""


class OtherServer(ConnectionFailed):
    """A connection reached another server than the first one."""


class DumpFailed(PgkeepError):
    """The database could not be dumped completely; nothing was published."""

    exit_code = 4


class VerificationFailed(PgkeepError):
    """A backup file is damaged, truncated, incomplete, or contradicts its side files."""

    exit_code = 5


class NewerFormat(VerificationFailed):
    """A newer version of pgkeep wrote a file."""


class NotPlainDump(VerificationFailed):
    """A file has another format than the plain one of pg_dump."""


class OtherKey(VerificationFailed):
    """None of the given private keys decrypts the file."""


class StoreError(PgkeepError):
    """A store could not be read or written."""

    exit_code = 6


class AccessDenied(StoreError):
    """The store denies this operation to the current identity."""


class Missing(StoreError):
    """The store does not contain this file."""


class Exists(StoreError):
    """The store has a file of this name already."""


class Retained(StoreError):
    """The store retains a file until a date, for example by Object Lock."""


class Differs(StoreError):
    """The WAL archive has another file under the same name."""


class RetentionFailed(PgkeepError):
    """Old backups could not be removed, or removing them would be dangerous."""

    exit_code = 7


class RestoreFailed(PgkeepError):
    """A backup could not be restored; an existing database was left unchanged."""

    exit_code = 8


class ExtensionFailed(RestoreFailed):
    """An extension could not be created; some depend on the name of the database."""


class Refused(PgkeepError):
    """Nothing was done: a confirmation or a precondition is missing."""

    exit_code = 9


class NoSpace(Refused):
    """Something temporary does not fit into a directory: the backups can be good."""


class AlreadyRunning(PgkeepError):
    """Another run works on the same database or directory."""

    exit_code = 10


class SomeFailed(PgkeepError):
    """At least one of several databases failed; the others are done."""

    exit_code = 11


class ProgramFailed(PgkeepError):
    """A PostgreSQL program failed; callers convert this to their own error."""

    def __init__(self, program: str, how: str, said: list[str], cause: Sequence[str] = ()) -> None:
        last = said[-5:]
        shown = [*(line for line in cause if line not in last), *last]
        super().__init__(f"{program} failed ({how}): {'; '.join(shown) or 'no message'}")
        self.program = program
        self.said = said
