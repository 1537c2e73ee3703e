"""Encryption of backup files with age or GPG: before they reach a store, and when they are read.

Imports stores, processes, model and what is below them.
"""
