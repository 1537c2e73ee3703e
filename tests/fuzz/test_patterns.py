"""No regular expression of pgkeep takes exponential time, whatever it searches (trap G1)."""

import importlib
import pkgutil
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

import pgkeep
from pgkeep.sql import dialect

REPEATED = ('"', "'", "a", " ", ", ", "\n", "$a$", "1", "\\", "(")
TIMES = 30  # an exponential search of so many takes minutes, any other one less than a millisecond
SECONDS = 2.0
parser: Any = importlib.import_module("re._parser")
codes: Any = importlib.import_module("re._constants")


def patterns() -> Iterator[re.Pattern[Any]]:
    """Yield the patterns in the modules, also those in their tables."""
    for module in pkgutil.walk_packages(pgkeep.__path__, "pgkeep."):
        if ".template" not in module.name:
            with suppress(ImportError):
                yield from _found(list(vars(importlib.import_module(module.name)).values()))
    for forms in (dialect._FREE, dialect._CLEANING, dialect._DEFINING, dialect._CLUSTER):
        yield from (re.compile(rb"(?:%b)\s*;\s*" % form, re.DOTALL) for form in forms)


def _found(values: list[object]) -> Iterator[re.Pattern[Any]]:
    for value in values:
        match value:
            case re.Pattern():
                yield value
            case dict():
                yield from _found([*value.values(), *value])
            case list() | tuple():
                yield from _found(list(value))


def beginnings(pattern: re.Pattern[Any]) -> list[str]:
    """Return texts that lead to each part of a pattern."""
    flags = pattern.flags if isinstance(pattern.pattern, bytes) else pattern.flags & ~re.UNICODE
    found = _texts(parser.parse(pattern.pattern, flags))
    return sorted(set(found), key=len)[:120]


def _texts(parts: Any) -> list[str]:
    """Return one text that matches the parts, then texts that end within them."""
    text, found = "", []
    for code, value in parts:
        found.append(text)
        if code is codes.LITERAL:
            text += chr(value)
        elif code is codes.IN:
            text += _member(value)
        elif code is codes.ANY:
            text += "a"
        elif code is codes.SUBPATTERN or code is codes.ATOMIC_GROUP:
            inner = _texts(value[3] if code is codes.SUBPATTERN else value)
            found += [text + each for each in inner[1:9]]
            text += inner[0]
        elif code is codes.BRANCH:
            branches = [_texts(branch) for branch in value[1]]
            found += [text + each for inner in branches for each in inner[:4]]
            text += branches[0][0]
        elif code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            inner = _texts(value[2])
            found += [text + each for each in inner[:9]]
            text += inner[0] * min(value[0], 20)
    return [text, *found]


def _member(choices: Any) -> str:
    for code, value in choices:
        if code is codes.LITERAL:
            return chr(value)
        if code is codes.RANGE:
            return chr(value[0])
    return "a"


def _slow(signal_number: int, frame: FrameType | None) -> None:
    raise TimeoutError


def test_no_pattern_takes_exponential_time() -> None:
    assert threading.current_thread() is threading.main_thread()
    former = signal.signal(signal.SIGVTALRM, _slow)
    try:
        for pattern in {found.pattern: found for found in patterns()}.values():
            _check(pattern)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, former)


def _check(pattern: re.Pattern[Any]) -> None:
    for beginning in beginnings(pattern):
        for part in REPEATED:
            text = f"{beginning}{part * TIMES}\1"
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            try:
                pattern.search(text.encode() if isinstance(pattern.pattern, bytes) else text)
            except TimeoutError:
                pytest.fail(f"{pattern.pattern!r} takes exponential time to search {text!r}")
