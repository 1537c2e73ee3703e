"""What the target of a restore has: relations, dependents, roles, privileges, triggers.

Queries its system catalogs, for `restore`.
"""
