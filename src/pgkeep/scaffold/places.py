"""Where the template and the manual pages are."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def working_copy() -> Path | None:
    """Return the folder of the source code, if pgkeep runs from it."""
    root = PACKAGE.parents[1]
    return root if (root / "template" / "cookiecutter.json").is_file() else None


def template() -> Path:
    """Return the folder of the template: in the package, or next to `src` in a working copy."""
    return (working_copy() or PACKAGE) / "template"
