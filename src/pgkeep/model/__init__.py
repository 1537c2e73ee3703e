"""Values and decisions of a backup: names, manifest, retention, drift.

No I/O and no clock. Imports nothing but errors.
"""
