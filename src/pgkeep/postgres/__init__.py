"""One PostgreSQL server: connections, client programs, catalogs, snapshots, temporary servers.

Translates errors of the server into errors of pgkeep. Imports sql, model and what is below them.
"""
