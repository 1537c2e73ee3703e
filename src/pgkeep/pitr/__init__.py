"""Point in time: the WAL archive, base backups, and recovery to any second.

Imports artifact, postgres, catalog and what is below them.
"""
