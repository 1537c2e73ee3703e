"""`pgkeep init`: the files of the cookiecutter template for an existing project.

Imports nothing but errors.
"""
