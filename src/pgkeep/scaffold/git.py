"""What Git would do with the files of a project: ask Git itself."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def toplevel(project: Path) -> Path | None:
    """Return the folder of the repository that contains the project, if it is in one."""
    folder = next(path for path in (project, *project.parents) if path.is_dir())
    shown = _git(folder, "rev-parse", "--show-toplevel")
    return Path(shown.strip()) if shown else None


def tracked(project: Path, paths: Iterable[str]) -> set[str]:
    """Return those of the files that the repository contains."""
    if not project.is_dir():
        return set()
    return {*filter(None, _git(project, "ls-files", "-z", "--", *paths).split("\0"))}


def ignored(
    root: Path, project: Path, rules: Mapping[str, bytes], paths: Iterable[str]
) -> set[str]:
    """Return those of the paths that Git will ignore if the project has these `.gitignore` files.

    They are not written yet, so this asks about an empty repository with the same rules.
    """
    below = project.relative_to(root)
    with tempfile.TemporaryDirectory(prefix="pgkeep-") as folder:
        copy = Path(folder).resolve()
        _git(copy, "init", "--quiet")
        for parent in (*below.parents, below):
            _copy(root / parent / ".gitignore", copy / parent / ".gitignore")
        for path in paths:
            for parent in Path(path).parents:
                _copy(project / parent / ".gitignore", copy / below / parent / ".gitignore")
        exclude = _git(root, "rev-parse", "--git-path", "info/exclude").strip()
        if exclude:
            _copy(root / exclude, copy / ".git" / "info" / "exclude")
        for name, contents in rules.items():
            target = copy / below / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(contents)
        question = "".join(f"{path}\0" for path in paths)
        shown = _git(copy / below, "check-ignore", "-z", "--stdin", "--no-index", paths=question)
    return {*filter(None, shown.split("\0"))}


def _copy(source: Path, target: Path) -> None:
    if source.is_file() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _git(folder: Path, *words: str, paths: str = "") -> str:
    """Return what Git prints; nothing if it is not installed, or if this is no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            input=paths, capture_output=True, text=True, check=False, errors="surrogateescape",
        )  # fmt: skip
    except OSError:
        return ""
    return done.stdout
