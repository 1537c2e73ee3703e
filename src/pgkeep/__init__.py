"""pgkeep keeps PostgreSQL databases restorable."""

__version__ = "0.1.0"
