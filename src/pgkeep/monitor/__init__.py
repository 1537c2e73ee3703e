"""Status, metrics, notifications and pages.

Imports drill, backup, catalog and what is below them.
"""
