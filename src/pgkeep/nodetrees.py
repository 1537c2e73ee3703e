"""Which operators a stored expression or query uses where SQL text has no place for their names.

PostgreSQL keeps parsed expressions as text (pg_node_tree). pg_dump prints most operators with
their schema where the search path does not have it: `a OPERATOR(public.=) b`. Some constructs have
no such spelling: when their text is parsed again with an empty search path, they take another
operator or fail (trap G4.1).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

CATALOG = "pg_catalog"

_TOKEN = re.compile(r"[{}()]|(?:\\.|[^\s{}()\\])+", re.DOTALL)
_NOTHING = "<>"


@dataclass(slots=True)
class Node:
    """A node of a parse tree: its type and its fields."""

    name: str
    fields: "dict[str, list[Value]]" = field(default_factory=dict)

    def first(self, name: str) -> "Value":
        """Return the first value of a field; nothing is as PostgreSQL writes it."""
        return next(iter(self.fields.get(name, ())), _NOTHING)


Value = Node | list["Value"] | str


@dataclass(frozen=True, slots=True)
class Use:
    """A construct, and the OIDs of the operators that it compares by."""

    construct: str
    operators: tuple[int, ...]


def parse(text: str) -> Value:
    """Read the text of a pg_node_tree (PostgreSQL's read.c)."""
    top: list[Value] = []
    open_: list[tuple[Node | None, list[Value]]] = [(None, top)]  # where the next value goes
    nodes: list[Node] = []
    tokens = _TOKEN.finditer(text)
    for match in tokens:
        token = match.group()
        node, values = open_[-1]
        match token:
            case "{":
                found = Node(next(tokens).group())
                values.append(found)
                nodes.append(found)
                open_.append((found, []))
            case "(":
                inner: list[Value] = []
                values.append(inner)
                open_.append((None, inner))
            case "}" | ")":
                open_.pop()
            case _ if node is not None and token.startswith(":"):
                open_[-1] = (node, node.fields.setdefault(token[1:], []))
            case _:
                values.append(token)
    return top


def uses(text: str) -> list[Use]:
    """Return the constructs of a tree whose operators its SQL text does not name, in its order."""
    return [use for node in _nodes(parse(text)) for use in _uses_of(node)]


def unnamed(found: Sequence[Use], schemas: Mapping[int, str]) -> list[Use]:
    """Return the uses that need another search path than an empty one.

    Of a comparison of rows the first operator is printed and stands for all: it does not fit where
    they lie in several schemas.
    """
    return [
        use
        for use in found
        if (names := {schemas.get(one, CATALOG) for one in use.operators}) != {CATALOG}
        and (len(use.operators) == 1 or len(names) > 1)
    ]


def _nodes(value: Value) -> Iterator[Node]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Node):
            yield one
            for values in reversed(one.fields.values()):
                waiting += reversed(values)
        elif isinstance(one, list):
            waiting += reversed(one)


def _uses_of(node: Node) -> Iterator[Use]:
    match node.name:
        case "DISTINCTEXPR":
            yield from _single("IS DISTINCT FROM", node)
        case "NULLIFEXPR":
            yield from _single("NULLIF", node)
        case "CASE" | "CASEEXPR" if node.first("arg") != _NOTHING:
            for when in _listed(node.first("args")):
                compared = when.first("expr")
                if isinstance(compared, Node) and _has_test(compared):
                    yield from _single("CASE ... WHEN", compared)
        case "JOINEXPR" if node.first("usingClause") != _NOTHING:
            for compared in _conjuncts(node.first("quals")):
                yield from _single("JOIN USING", compared)
        case "ROWCOMPAREEXPR":
            yield Use("row comparison", tuple(_oids(node.first("opnos"))))
        case "SUBLINK":
            compared = node.first("testexpr")
            if isinstance(compared, Node) and compared.name == "BOOLEXPR":
                numbers = [oid for one in _conjuncts(compared) for oid in _oid(one)]
                yield Use("row comparison", tuple(numbers))


def _single(construct: str, node: Node) -> Iterator[Use]:
    for oid in _oid(node):
        yield Use(construct, (oid,))


def _oid(node: Node) -> Iterator[int]:
    value = node.first("opno")
    if isinstance(value, str) and value.isdecimal():
        yield int(value)


def _oids(value: Value) -> Iterator[int]:
    """Read a list of OIDs: (o 96 98)."""
    if isinstance(value, list):
        yield from (int(one) for one in value if isinstance(one, str) and one.isdecimal())


def _listed(value: Value) -> Iterator[Node]:
    if isinstance(value, list):
        yield from (one for one in value if isinstance(one, Node))


def _has_test(compared: Node) -> bool:
    """Whether one side is the value after CASE, perhaps converted."""
    for argument in _listed(compared.first("args")):
        side: Value = argument
        while isinstance(side, Node) and side.name != "CASETESTEXPR":
            side = side.first("arg")
        if isinstance(side, Node):
            return True
    return False


def _conjuncts(value: Value) -> Iterator[Node]:
    if isinstance(value, Node) and value.name == "BOOLEXPR":
        yield from _listed(value.first("args"))
    elif isinstance(value, Node):
        yield value
