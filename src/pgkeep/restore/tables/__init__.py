"""Restore tables, or rows of one, into an existing database, in one transaction.

Only the definitions and the rows of these tables are read from the backup file.
"""
