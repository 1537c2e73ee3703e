"""Benchmarks: pgkeep against pg_dump and pg_restore, side by side on one server."""
