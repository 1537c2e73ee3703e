"""The list of planted bugs fits the code; `make mutants` plants them."""

import functools
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.bug import Bug
from tests.mutants.bugs import KINDS

ROOT = Path(__file__).parents[1]
BUGS = [bug for bugs in KINDS.values() for bug in bugs]

read = functools.cache(Path.read_text)


def test_each_text_occurs_exactly_once() -> None:
    """A list that does not fit the code any more would plant nothing."""
    for bug in BUGS:
        bug.planted(read(ROOT / bug.path))


def test_each_bug_has_a_name_and_existing_tests() -> None:
    assert [name for name, count in Counter(bug.name for bug in BUGS).items() if count > 1] == []
    for bug in BUGS:
        assert bug.tests
        for test in bug.tests:
            file, _, name = test.partition("::")
            text = read(ROOT / file)
            assert f"def {name.partition('[')[0]}" in text if name else text, test


def test_a_text_that_is_gone_is_an_error() -> None:
    bug = Bug("any", "errors.py", "no such text", "", "", ("tests/test_mutants.py",))
    with pytest.raises(ValueError, match="occurs 0 times"):
        bug.planted(read(ROOT / bug.path))
