"""Problems that would make a backup fail, found before it runs, each with its fix.

Imports drill and what is below it.
"""
