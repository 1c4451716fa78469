"""Runs small programs of our own making, within bounds: a part of Python, evaluated on the tree.

Only what `script` writes is understood: integers, texts, lists, assignments, `if`, `for`, functions of their parameters
alone, and the names in `_BUILTINS` and `_METHODS`.
"""

import ast
import operator
from collections.abc import Callable, Sequence
from typing import Any

_STEPS = 5000
_LARGEST = 10**6
_LONGEST = 200

_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_BUILTINS: dict[str, Callable[..., Any]] = {
    "len": len,
    "sum": sum,
    "min": min,
    "max": max,
    "abs": abs,
    "sorted": sorted,
    "range": range,
}
_METHODS = {"append", "upper", "count"}


class Unbounded(Exception):
    """A program that takes too many steps, or a value that grows too large."""


def run(source: str) -> str:
    """What a program prints.

    Raises:
        Unbounded: more than 5000 steps, a number beyond a million, a text or list of more than 200 parts.
    """
    running = _Running()
    running.block(ast.parse(source).body, running.names)
    return "".join(running.printed)


class _Return(Exception):
    """Ends a function with its value."""


class _Running:
    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.printed: list[str] = []
        self._left = _STEPS

    def block(self, statements: Sequence[ast.stmt], names: dict[str, Any]) -> None:
        for statement in statements:
            self._statement(statement, names)

    def _statement(self, statement: ast.stmt, names: dict[str, Any]) -> None:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names[name] = self._value(value, names)
            case ast.AugAssign(target=ast.Name(id=name), op=symbol, value=value):
                names[name] = self._bounded(_OPERATORS[type(symbol)](names[name], self._value(value, names)))
            case ast.If(test=test, body=body, orelse=orelse):
                self.block(body if self._value(test, names) else orelse, names)
            case ast.For(target=ast.Name(id=name), iter=values, body=body):
                for item in self._value(values, names):
                    names[name] = item
                    self.block(body, names)
            case ast.FunctionDef(name=name):
                names[name] = statement
            case ast.Return(value=ast.expr() as value):
                raise _Return(self._value(value, names))
            case ast.Expr(value=value):
                self._value(value, names)
            case _:
                raise AssertionError(ast.dump(statement))

    def _value(self, node: ast.expr, names: dict[str, Any]) -> Any:
        self._left -= 1
        if self._left < 0:
            raise Unbounded
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return names[name]
            case ast.List(elts=parts):
                return [self._value(part, names) for part in parts]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._value(operand, names)
            case ast.BinOp(left=left, op=symbol, right=right):
                return self._bounded(_OPERATORS[type(symbol)](self._value(left, names), self._value(right, names)))
            case ast.Compare(left=left, ops=[symbol], comparators=[right]):
                return _OPERATORS[type(symbol)](self._value(left, names), self._value(right, names))
            case ast.Subscript(value=value, slice=ast.Slice(lower=lower, upper=upper, step=step)):
                ends = [None if end is None else self._value(end, names) for end in (lower, upper, step)]
                return self._value(value, names)[slice(*ends)]
            case ast.Subscript(value=value, slice=index):
                return self._value(value, names)[self._value(index, names)]
            case ast.Call(func=function, args=given):
                return self._bounded(self._call(function, [self._value(one, names) for one in given], names))
        raise AssertionError(ast.dump(node))

    def _call(self, function: ast.expr, given: list[Any], names: dict[str, Any]) -> Any:
        match function:
            case ast.Name(id="print"):
                self.printed.append(f"{given[0]}\n")
                return None
            case ast.Name(id=name) if name in names:
                return self._own(names[name], given)
            case ast.Name(id=name):
                return _BUILTINS[name](*given)
            case ast.Attribute(value=value, attr=name) if name in _METHODS:
                return getattr(self._value(value, names), name)(*given)
        raise AssertionError(ast.dump(function))

    def _own(self, function: ast.FunctionDef, given: list[Any]) -> Any:
        parameters = [argument.arg for argument in function.args.args]
        try:
            self.block(function.body, dict(zip(parameters, given, strict=True)))
        except _Return as returned:
            return returned.args[0]
        return None

    def _bounded(self, value: Any) -> Any:
        size, bound = (abs(value), _LARGEST) if isinstance(value, int) else (0, 0)
        if isinstance(value, str | list | range):
            size, bound = len(value), _LONGEST
        if size > bound:
            raise Unbounded
        return value
