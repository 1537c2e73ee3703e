"""The folders: what CONTRIBUTING says of them is what the imports are."""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "pgkeep"

Edge = tuple[str, str]


def rooms() -> set[str]:
    """Return the folders and the single modules of the package."""
    return {
        path.stem
        for path in PACKAGE.glob("[a-z]*")
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }


def imported(path: Path) -> set[str]:
    """Return the rooms that a module imports, itself not among them."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*parts[: len(parts) - node.level], *(node.module or "").split(".")]
            found |= {next(filter(None, (*base, name.name))) for name in node.names}
    return (found & rooms()) - {parts[0]}


@cache
def imports() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        if path.parent != PACKAGE or path.name != "__init__.py":
            found[path.relative_to(PACKAGE).with_suffix("").parts[0]] |= imported(path)
    return found


def reached(start: str, without: Edge) -> set[str]:
    """Return the rooms that one leads to, by other ways than one edge."""
    seen: set[str] = set()
    open_ends = [start]
    while open_ends:
        room = open_ends.pop()
        for below in imports()[room] - seen:
            if (room, below) != without:
                seen.add(below)
                open_ends.append(below)
    return seen


def test_the_picture_shows_the_imports() -> None:
    picture = (
        (ROOT / "CONTRIBUTING.md").read_text().partition("```mermaid\n")[2].partition("```")[0]
    )
    drawn = {
        (above, below)
        for above, targets in re.findall(r"^ +(\w+) --> ([\w &]+)$", picture, re.MULTILINE)
        for below in targets.split(" & ")
    }
    every = {(above, below) for above, found in imports().items() for below in found}
    assert drawn == {edge for edge in every if edge[1] not in reached(edge[0], edge)}


def test_the_table_lists_every_room() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("| folder or module |")[2]
    cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)/?`", " ".join(cells))) == sorted(rooms())


def test_a_folder_says_what_it_is_for_and_exports_nothing() -> None:
    for path in PACKAGE.rglob("*/__init__.py"):
        if path.parent.name in ("cli", "template"):
            continue  # where the program begins
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        assert len(tree.body) == 1, path


def test_no_test_imports_another_one() -> None:
    """What two tests need is in tests/support."""
    for path in (ROOT / "tests").rglob("*.py"):
        assert not re.search(r"^from tests\S*\.test_\w+ import", path.read_text(), re.MULTILINE), (
            path
        )


def test_a_folder_imports_what_it_says() -> None:
    for room, found in imports().items():
        path = PACKAGE / room / "__init__.py"
        if room == "cli" or not path.is_file():
            continue
        said = re.search(
            r"Imports ([^.;]*)[.;]", ast.get_docstring(ast.parse(path.read_text())) or ""
        )
        assert said, room
        named = set(re.findall(r"\w+", said[1])) & rooms()
        assert named <= found, room
        if "nothing but" in said[1]:
            assert named == found, room
