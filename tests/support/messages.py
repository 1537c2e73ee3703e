"""The messages of the source, found by `ast`: of errors, hints and log lines."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pgkeep import errors

PACKAGE = Path(errors.__file__).parent
CLASSES = {
    name for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.PgkeepError)
}  # fmt: skip
CLASSES |= {"ClientError", "Ended"}  # of the client of archive_command, which imports nothing
LOGGED = {"warning", "step", "say", "info", "done"}  # functions whose argument is printed


class Message(NamedTuple):
    """The message of an error, with placeholders in angle brackets for what varies."""

    kind: str  # the class
    template: str
    path: str


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Yield the path of each module below the package, and its syntax tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text())


def of_errors() -> list[Message]:
    """Return the messages of errors, findings and problems, if any part of them is constant."""
    return [
        Message(kind, template, path)
        for path, tree in sources()
        for node in ast.walk(tree)
        for kind, message in _messages(node)
        for template in _templates(message)
        if re.search(r"[A-Za-z]{2}", re.sub(r"<\w*>", "", template))
    ]


def printed(tree: ast.Module) -> Iterator[str]:
    """Yield every string in the arguments of errors and of functions that print."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (
            any(_messages(node))
            or (isinstance(node.func, ast.Attribute) and node.func.attr in LOGGED)
            or (isinstance(node.func, ast.Name) and node.func.id in LOGGED)
        ):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def normalized(template: str) -> str:
    """Return a template with nameless placeholders, as messages are compared."""
    return re.sub(r"<[^<>]*>(?:\.?<[^<>]*>)*", "<>", template)


def _messages(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield what a node makes: an error, a finding of the preflight, a problem."""
    match node:
        case ast.Call(args=[first, *more], func=function):
            name = ast.unparse(function).rpartition(".")
            if _error_class(function) is not None:
                yield str(_error_class(function)), first
            elif name[2] == "Finding":
                yield "Finding", more[0]
            elif name[2] in ("refuse", "_refuse"):
                yield "problem", first
            elif name[0].endswith("problems") and name[2] in ("append", "insert"):
                yield "problem", [first, *more][name[2] == "insert"]
        case ast.AugAssign(target=target, value=ast.List(elts=items) | ast.ListComp(elt=items)):
            if ast.unparse(target).endswith("problems"):
                for item in items if isinstance(items, list) else [items]:
                    yield "problem", item
        case ast.FunctionDef(name=name) if re.search("problem|obstacle", name):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Yield | ast.Return) and inner.value is not None:
                    value = inner.value
                    yield "problem", value.elts[0] if isinstance(value, ast.Tuple) else value


def _error_class(function: ast.expr) -> str | None:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    return name if name in CLASSES else None


def _templates(message: ast.expr) -> Iterator[str]:
    """Yield the text of an expression, each branch of a condition on its own."""
    match message:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield re.sub(
                r"(<\w*>)+", r"\1", "".join(
                    str(part.value) if isinstance(part, ast.Constant) else f"<{_name(part)}>"
                    for part in parts
                ),
            )  # fmt: skip
        case ast.IfExp(body=body, orelse=other):
            yield from _templates(body)
            yield from _templates(other)


def _name(part: ast.expr) -> str:
    """Return a name for what varies: the last one in its expression."""
    match part:
        case ast.FormattedValue(value=value) | ast.Subscript(value=value):
            return _name(value)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_")
        case ast.Call(args=[first, *_]):
            return _name(first)
        case ast.Call(func=ast.Attribute(value=value)):
            return _name(value)
        case _:
            return "value"
