"""Fuzzing of everything that reads foreign bytes; `make fuzz` runs it with atheris.

A target is a list of readers. The first byte of an input selects one of them, the others are what
it reads.
"""
