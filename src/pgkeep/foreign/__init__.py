"""Dumps that other tools made: index them, or register existing files as backups.

Imports backup, restore and what is below them.
"""
