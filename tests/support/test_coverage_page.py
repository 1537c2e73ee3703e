"""The page of `make coverage`, and the reasons for what no test executes."""

import ast

from tests.support import coverage_page
from tests.support.coverage_page import NONE, Function, Report
from tests.support.messages import PACKAGE


def functions() -> set[str]:
    """Return the functions of the package as coverage.py names them."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        names = {""}
        _collect(ast.parse(path.read_text()), "", names)
        module = str(path.relative_to(PACKAGE))
        found |= {f"{module}:{name}".rstrip(":") for name in names}
    return found


def _collect(node: ast.AST, prefix: str, names: set[str]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            names.add(prefix + child.name)
            _collect(child, f"{prefix}{child.name}.<locals>.", names)
        elif isinstance(child, ast.ClassDef):
            _collect(child, f"{prefix}{child.name}.", names)
        else:
            _collect(child, prefix, names)


def test_each_reason_is_about_a_function() -> None:
    """A reason whose function was renamed or removed explains nothing."""
    assert coverage_page.reasons().keys() - functions() == set()


def test_what_is_missing_has_a_reason_and_no_other_function_has_one() -> None:
    report = Report(
        [
            Function("stores/a.py:f", 10, 4, [3], [(2, 3)]),
            Function("stores/a.py:C.g", 10, 0, [], []),
            Function("errors.py", 5, 0, [5], []),
        ],
        {"stores/a.py:f": "no such disk", "stores/a.py:C.g": "too late", "gone.py:h": "too late"},
    )
    assert report.percent == 75
    assert list(report.unexplained()) == [f"errors.py: {NONE}"]
    assert [line.split()[1] for line in report.stale()] == ["gone.py:h", "stores/a.py:C.g"]
    assert list(report.missing()) == ["stores/a.py:f: 2->3; lines [3]", "errors.py: ; lines [5]"]
    page = coverage_page.page(report, "3 passed in 2 s")
    assert "Tests: 3 passed in 2 s. They execute\n75.0 % of 4 branches" in page
    assert "| `stores/` | 20 | 95.0 % | 4 | 75.0 % |\n" in page
    assert "| no such disk | 1 | `stores/a.py:f` |\n" in page
