"""Select tables by pattern, with the syntax of pg_dump's --table (manual, psql, "Patterns")."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from .. import errors as e
from ..model.wildcards import ANY, regular_expression

_PART = re.compile(r'"(?:[^"]|"")*+"|[^".]')


@dataclass(frozen=True, slots=True)
class Pattern:
    """`schema.name`, each with * and ?; without a schema, any schema matches."""

    text: str
    schema: re.Pattern[str] | None
    name: re.Pattern[str]

    def matches(self, schema: str, name: str) -> bool:
        """Whether the pattern matches a table."""
        if self.schema is not None and not self.schema.fullmatch(schema):
            return False
        return self.name.fullmatch(name) is not None


def pattern(text: str) -> Pattern:
    """Read a pattern: outside double quotes, letters are folded, and * and ? are wildcards.

    Raises:
        UsageError: it contains more than one dot, or an unclosed quote.

    """
    parts = _split(text, _expression)
    if len(parts) > 2 or not all(map("".join, parts)):
        raise e.UsageError(
            f"pattern {text}: expected NAME or SCHEMA.NAME",
            hint='A dot in a name needs double quotes: "a.b".',
        )
    *schema, name = (re.compile(regular_expression(part), re.DOTALL) for part in parts)
    return Pattern(text, schema[0] if schema else None, name)


def names(text: str) -> list[str]:
    """Read a name with or without a schema; outside double quotes, letters are folded.

    Raises:
        UsageError: it contains more than one dot, or an unclosed quote.

    """
    parts = ["".join(part) for part in _split(text, _literal)]
    if len(parts) > 2 or not all(parts):
        raise e.UsageError(f"name {text}: expected NAME or SCHEMA.NAME")
    return parts


def _split(text: str, read: Callable[[str], str]) -> list[list[str]]:
    """Return the parts between dots outside quotes, as a list of tokens each."""
    parts: list[list[str]] = [[]]
    position = 0
    while position < len(text):
        if text[position] == ".":
            parts.append([])
            position += 1
            continue
        match = _PART.match(text, position)
        if match is None:
            raise e.UsageError(f"{text}: unclosed double quote")
        parts[-1].append(read(match.group()))
        position = match.end()
    return parts


def _literal(piece: str) -> str:
    return piece[1:-1].replace('""', '"') if piece.startswith('"') else piece.lower()


def _expression(piece: str) -> str:
    if piece.startswith('"'):
        return re.escape(_literal(piece))
    return {"*": ANY, "?": "."}.get(piece, re.escape(piece.lower()))
