"""What the target of a restore has: relations, dependents, roles, privileges, triggers.

Questions to its catalogs, for `restore`.
"""
