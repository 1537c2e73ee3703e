"""Changes of an input that libFuzzer does not make: repeated parts, and values in JSON."""

import json
import random
from collections.abc import Callable
from typing import Any

Mutate = Callable[[bytes, int], bytes]  # libFuzzer's own changes

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 31, 1 << 63, -(1 << 63), 1 << 64, 10**30, 1e300, -0.5, "", "x",
    "\0", "../x", "/etc/passwd", "a/b", "\n", "\ud800", "é" * 9, [], {}, [[]], [None], {"": None},
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999-23:59", "2026-11-27T00:00:00", "NaN",
)  # fmt: skip


def mutated(data: bytes, limit: int, seed: int, mutate: Mutate) -> bytes:
    """Return another input of at most `limit` bytes; its first byte selects the reader."""
    chance = random.Random(seed)
    choice = chance.random()
    if choice < 0.05 and len(data) > 2:
        return _repeated(data, limit, chance)
    if choice < 0.4:
        changed = _json(data[1:], chance)
        if changed is not None and len(changed) < limit:
            return data[:1] + changed
    return mutate(data, limit)


def _repeated(data: bytes, limit: int, chance: random.Random) -> bytes:
    """Repeat a part: for nesting, and for time that grows with the square."""
    start = chance.randrange(1, len(data))
    part = data[start : start + chance.choice((1, 2, 5, 20, 200))]
    times = chance.choice((2, 20, 300, 3000))
    return (data[:start] + part * times + data[start:])[:limit]


def _json(data: bytes, chance: random.Random) -> bytes | None:
    """Change a value in a line of JSON, or in the whole; None if there is no JSON."""
    start = data.find(b"{")
    if start < 0:
        return None
    whole = _decoded(data)
    if whole is not None:
        return _encoded(_changed(whole, chance))
    lines = data.split(b"\n")
    places = [number for number, line in enumerate(lines) if b"{" in line]
    number = chance.choice(places)
    prefix, brace, rest = lines[number].partition(b"{")
    value = _decoded(brace + rest)
    if value is None:
        return None
    lines[number] = prefix + _encoded(_changed(value, chance))
    return b"\n".join(lines)


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _changed(value: Any, chance: random.Random) -> Any:
    """Return JSON with another value, one value less, or one value twice."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.15:
        return chance.choice(_VALUES)
    key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
    copy: Any = value.copy()
    match chance.randrange(6):
        case 0:
            del copy[key]
        case 1 if isinstance(copy, list):
            copy.append(copy[key])
        case 2 if isinstance(copy, list):
            chance.shuffle(copy)
        case 3 if isinstance(copy[key], int):
            copy[key] += chance.choice((-1, 1, 255, -copy[key]))
        case _:
            copy[key] = _changed(copy[key], chance)
    return copy
