"""The backup file: its members, its index, what it contains, and whether it is complete.

Imports crypt, sql and what is below them; needs no server.
"""
