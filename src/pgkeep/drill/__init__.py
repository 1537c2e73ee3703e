"""Proof by a real restore: restore a backup into a temporary server and compare every row.

Imports backup, restore and what is below them.
"""
