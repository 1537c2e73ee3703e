"""Backup file to database: everything, single tables, or single rows.

Imports artifact, postgres and what is below them; nothing of backup.
"""
