"""Databases that no restore fills or replaces, and no swap renames."""

from .. import errors as e

TEMPLATES = ("template0", "template1")
MAINTENANCE = "postgres"


def check_target(name: str) -> None:
    """Check that a database is not a template: CREATE DATABASE would copy what is restored.

    Raises:
        Refused: it is a template of the server.

    """
    if name in TEMPLATES:
        raise e.Refused(
            f"database {name} is a template of the server: new databases are copies of it",
            hint="Restore into another database with --target-db=NAME.",
        )


def check_replaced(*names: str) -> None:
    """Check that databases may be renamed.

    Raises:
        Refused: programs expect one of them under its name.

    """
    for name in names:
        if name in (*TEMPLATES, MAINTENANCE):
            raise e.Refused(
                f"database {name} is not replaced: programs of every user and pgkeep itself expect"
                " it under this name",
                hint="Choose another name. pgkeep restore --target-db=NAME makes a new database,"
                " and --table restores single tables into an existing one.",
            )
