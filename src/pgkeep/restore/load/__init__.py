"""Load the SQL and the rows of a backup file into one database, by several sessions at once.

It knows nothing of temporary names and plans: `restore` does.
"""
