"""The backups of a store: their manifests, their copies in a second store, their removal.

Imports artifact, stores, model and what is below them; needs no server.
"""
