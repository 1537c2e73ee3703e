"""Templates of the pages, and what renders them.

Imports status, overview and progress.
"""
