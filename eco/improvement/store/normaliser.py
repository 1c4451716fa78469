"""Runs in the sandbox: the shape of a program, equal for programs that differ only in names, comments and layout.

Names that the program binds are numbered in the order in which they appear; free names (builtins), attributes, methods
and constants stay; docstrings and annotations are left out. Nothing is imported from the package, as the source of this
file is all that the sandbox gets, and nothing that is read here is run.
"""

import ast
import hashlib
from collections.abc import Callable
from typing import Any

_BINDS = {
    "Name": "id", "arg": "arg", "FunctionDef": "name", "AsyncFunctionDef": "name", "ClassDef": "name",
    "ExceptHandler": "name", "MatchAs": "name", "MatchStar": "name", "MatchMapping": "rest", "alias": "asname",
}  # fmt: skip
"""Kind of node -> the field that holds a name of the program."""

_LEFT_OUT = ("annotation", "returns", "type_comment", "ctx", "kind", "type_ignores")
_DOCUMENTED = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def normalise(code: str) -> list[str] | None:
    """The digest of the whole program, then of each function in it; None for a text that is no Python."""
    try:
        tree = ast.parse(code)
        parts = [tree, *(node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS))]
        return [hashlib.sha256(_shape(part).encode("utf-8", "surrogatepass")).hexdigest() for part in parts]
    except Exception:  # any text may come: nested beyond the stack, null characters, numbers too long to print
        return None


def _shape(tree: ast.AST) -> str:
    bound = _bound(tree)
    numbers: dict[str, str] = {}
    return _text(tree, lambda name: numbers.setdefault(name, f"${len(numbers)}") if name in bound else name)


def _bound(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    methods: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.alias) and node.asname is None:
            names.add(node.name.partition(".")[0])
        elif type(node).__name__ in _BINDS and not isinstance(getattr(node, "ctx", None), ast.Load):
            names.add(getattr(node, _BINDS[type(node).__name__]))
        if isinstance(node, ast.ClassDef):
            methods |= {child.name for child in node.body if isinstance(child, _FUNCTIONS)}
    return names - methods


def _text(value: Any, rename: Callable[[str], str]) -> str:
    """A tree as text; fields that are empty are left out, since versions of Python differ in which ones there are."""
    if isinstance(value, list):
        return f"[{','.join([_text(one, rename) for one in value])}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    kind, parts = type(value).__name__, []
    for name, field in ast.iter_fields(value):
        if name in _LEFT_OUT or field is None or field == []:
            continue
        if name == _BINDS.get(kind):
            field = rename(field)
        elif kind in ("Global", "Nonlocal"):
            field = [rename(one) for one in field]
        elif name == "body" and isinstance(value, _DOCUMENTED) and ast.get_docstring(value, clean=False) is not None:
            field = field[1:]
        parts.append(f"{name}={_text(field, rename)}")
    return f"{kind}({','.join(parts)})"
