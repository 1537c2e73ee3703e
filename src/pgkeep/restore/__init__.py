"""Backup file to database: everything, single tables, or single rows.

Imports catalog, postgres and what is below them; nothing of backup.
"""
