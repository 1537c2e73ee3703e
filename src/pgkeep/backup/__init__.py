"""Database to backup file: one pg_dump for the definitions, parallel COPY for the rows.

Imports catalog, postgres and what is below them; nothing of restore.
"""
