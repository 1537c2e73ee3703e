"""The text that pg_dump writes: its entries, its statements, its encodings.

No I/O. Imports nothing but errors and model.
"""
