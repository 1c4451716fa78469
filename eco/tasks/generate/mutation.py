"""Programs with one planted bug: an operator, a comparison or a constant is another one."""

import ast
from collections.abc import Iterator

_OTHER = {
    "+": ("-",),
    "-": ("+",),
    "*": ("+",),
    "//": ("*",),
    "%": ("//",),
    ">": (">=", "<"),
    ">=": (">", "<="),
    "<": ("<=", ">"),
    "<=": ("<", ">="),
    "==": ("!=",),
    "!=": ("==",),
    "in": ("not in",),
    "not in": ("in",),
    "and": ("or",),
    "or": ("and",),
}


def mutants(source: str) -> list[str]:
    """The program with one change, in every way that there is, in the order of the text.

    The text changes and not the tree, so that what is not changed stays as it was written. source: ASCII, each operator
    on the line of its operands.
    """
    lines = source.splitlines(keepends=True)
    starts = [sum(map(len, lines[:i])) for i in range(len(lines))]
    changes = sorted(
        (starts[line - 1] + first, starts[line - 1] + end, new)
        for node in ast.walk(ast.parse(source))
        for line, first, end, new in _changes(node, lines)
    )
    return [source[:start] + new + source[end:] for start, end, new in changes]


def _changes(node: ast.AST, lines: list[str]) -> Iterator[tuple[int, int, int, str]]:
    """Line, counted from 1; columns from and to; new text."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        for changed in (node.value + 1, node.value - 1):
            yield node.lineno, node.col_offset, node.end_col_offset or 0, str(changed)
        return
    for left, right in _between(node):
        start, end = left.end_col_offset or 0, right.col_offset
        gap = lines[left.lineno - 1][start:end]
        symbol = gap.strip(" ()")
        for other in _OTHER.get(symbol, ()):
            at = start + gap.index(symbol)
            yield left.lineno, at, at + len(symbol), other


def _between(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """The operands on both sides of each operator of a node."""
    if isinstance(node, ast.BinOp):
        yield node.left, node.right
    elif isinstance(node, ast.Compare):
        yield from zip([node.left, *node.comparators], node.comparators, strict=False)
    elif isinstance(node, ast.BoolOp):
        yield from zip(node.values, node.values[1:], strict=False)
