"""Dumps that other tools made: index them, or register existing files as backups.

Imports backup and what is below it; needs no server.
"""
