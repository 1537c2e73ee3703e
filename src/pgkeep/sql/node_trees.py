"""Find the operators of a stored expression or query that SQL text has no syntax to name.

PostgreSQL stores parsed expressions as text (pg_node_tree). pg_dump prints most operators with
their schema if the search path does not include it: `a OPERATOR(public.=) b`. Some constructs have
no such syntax: parsed again with an empty search path, they use another operator or fail (trap
G4.1).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

CATALOG = "pg_catalog"

# Where a construct begins, which is all that has to be read of a tree: in a name a brace would have
# a backslash before it. The fields stand in the order of their structures (primnodes.h).
_CONSTRUCT = re.compile(
    r"(?<!\\)\{(?:"
    r"(?P<single>DISTINCTEXPR|NULLIFEXPR) :opno (?P<opno>[0-9]{1,10}) "
    r"|ROWCOMPAREEXPR :\w+ \d+ :opnos \(o (?P<row>(?:[0-9]{1,10} ?)++)\)"
    r"|SUBLINK [^{}()]*:testexpr (?P<sublink>(?=\{BOOLEXPR ))"
    r"|(?P<case>CASE(?:EXPR)? [^{}()]*:arg (?=\{))"
    r"|(?P<join>JOINEXPR ))"
)
_USING = ":usingClause ("
_SINGLE = {"DISTINCTEXPR": "IS DISTINCT FROM", "NULLIFEXPR": "NULLIF"}
_ROW = "row comparison"
_TOKEN = re.compile(r"[{}()]|(?:\\.|[^\s{}()\\])+", re.DOTALL)
_NOTHING = "<>"
_OID = re.compile(r"[0-9]{1,10}")


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
    """A construct, and the OIDs of the operators that it uses for comparisons."""

    construct: str
    operators: tuple[int, ...]


def node_at(text: str, start: int) -> Node:
    """Read the node of a tree that begins with the brace at some place (PostgreSQL's read.c)."""
    top: list[Value] = []
    open_: list[tuple[Node | None, list[Value]]] = [(None, top)]  # the target of the next value
    tokens = _TOKEN.finditer(text, start)
    for match in tokens:
        token = match.group()
        node, values = open_[-1]
        match token:
            case "{":
                name = next(tokens, None)
                if name is None:  # truncated
                    break
                found = Node(name.group())
                values.append(found)
                open_.append((found, []))
            case "(":
                inner: list[Value] = []
                values.append(inner)
                open_.append((None, inner))
            case "}" | ")":
                open_.pop()
                if len(open_) == 1:
                    break
            case _ if node is not None and token.startswith(":"):
                open_[-1] = (node, node.fields.setdefault(token[1:], []))
            case _:
                values.append(token)
    (whole,) = top
    assert isinstance(whole, Node)  # noqa: S101 - a brace begins one
    return whole


def uses(text: str) -> list[Use]:
    """Return the constructs of a tree whose operators SQL text does not name, in tree order."""
    return [use for match in _CONSTRUCT.finditer(text) for use in _uses_at(match)]


def unnamed(found: Sequence[Use], schemas: Mapping[int, str]) -> list[Use]:
    """Return the uses that do not work with an empty search path.

    For a comparison of rows, only the first operator is printed. This is wrong if the operators are
    in several schemas.
    """
    return [
        use
        for use in found
        if (names := {schemas.get(operator, CATALOG) for operator in use.operators}) != {CATALOG}
        and (len(use.operators) == 1 or len(names) > 1)
    ]


def _uses_at(match: re.Match[str]) -> Iterator[Use]:
    text = match.string
    if match["single"]:
        yield Use(_SINGLE[match["single"]], (int(match["opno"]),))
    elif match["row"]:
        yield Use(_ROW, tuple(map(int, match["row"].split())))
    elif match["sublink"] is not None:
        compared = _conjuncts(node_at(text, match.start("sublink")))
        yield Use(_ROW, tuple(oid for node in compared for oid in _oid(node)))
    elif match["case"]:
        for when in _listed(node_at(text, match.start()).first("args")):
            found = when.first("expr")
            if isinstance(found, Node) and _has_test(found):
                yield from _single("CASE ... WHEN", found)
    elif _USING in text:
        join = node_at(text, match.start())
        if join.first("usingClause") != _NOTHING:
            for condition in _conjuncts(join.first("quals")):
                yield from _single("JOIN USING", condition)


def _single(construct: str, node: Node) -> Iterator[Use]:
    for oid in _oid(node):
        yield Use(construct, (oid,))


def _oid(node: Node) -> Iterator[int]:
    value = node.first("opno")
    if isinstance(value, str) and _OID.fullmatch(value):
        yield int(value)


def _listed(value: Value) -> Iterator[Node]:
    if isinstance(value, list):
        yield from (node for node in value if isinstance(node, Node))


def _has_test(compared: Node) -> bool:
    """Whether one side is the value after CASE, possibly converted."""
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
