"""Names with wildcards as regular expressions that need no more than linear time."""

from collections.abc import Sequence

ANY = ".*"  # what `*` stands for


def regular_expression(tokens: Sequence[str]) -> str:
    """Join expressions for single characters or fixed text, and ANY.

    Text between two wildcards is matched at its first position. Trying the others would double the
    time with each wildcard, and cannot help: what follows can also begin later.
    """
    fixed = [""]
    for token in tokens:
        if token == ANY:
            fixed.append("")
        else:
            fixed[-1] += token
    if len(fixed) == 1:
        return fixed[0]
    begin, *between, end = fixed
    return begin + "".join(f"(?>.*?{text})" for text in between if text) + ANY + end
