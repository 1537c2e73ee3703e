"""On which base backups an incremental one is based: pure functions of manifests."""

from collections.abc import Mapping

from .base_manifest import BaseManifest

Bases = Mapping[str, BaseManifest]


def ancestors(base: BaseManifest, known: Bases) -> list[BaseManifest]:
    """Return the parents of a base backup that exist, up to the first missing one."""
    chain = [base]
    while chain[-1].parent is not None:
        parent = known.get(chain[-1].parent)
        if parent is None or parent in chain:  # a damaged manifest
            break
        chain.append(parent)
    return chain[1:]


def find(base: BaseManifest, known: Bases) -> list[BaseManifest] | None:
    """Return a base backup with all its parents, the full one first; None if one is missing."""
    chain = [base, *ancestors(base, known)]
    return chain[::-1] if chain[-1].parent is None else None
