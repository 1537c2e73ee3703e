"""Where files are stored: a directory, a bucket, or memory for tests.

One protocol (`store`), one module or package for each kind. Imports nothing but errors,
interrupts and model.
"""
