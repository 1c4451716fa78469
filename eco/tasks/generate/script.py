"""Writes small programs that print one line; every level brings a construct more and a statement more."""

import ast
import re
from collections.abc import Sequence
from random import Random
from typing import Literal

LEVELS = 10

_NESTED = 8
"""From this level on, a block may hold a block."""

_WORDS = ("ab", "cat", "dog", "tree", "river", "stone", "apple", "window", "garden", "banana")


_PLAIN = re.compile(r"\b[vf]\d+\b")

Kind = Literal["number", "list", "text"]


def script(rng: Random, level: int) -> str:
    """A program whose variables are `v0`, `v1` and so on in the order in which they appear, and its functions `f0` ...

    Level 1 prints one operation on numbers up to 20. Levels 2 to 7 bring variables, updates, `if`, `for`, lists and
    texts, functions; after that, programs only grow. It may fail, by an index or an endless growth: that is for the
    caller to see.
    """
    source = _Writer(rng, level).program()
    return renamed(source, [f"v{i}" for i in range(99)], [f"f{i}" for i in range(9)])


def renamed(source: str, variables: Sequence[str], functions: Sequence[str]) -> str:
    """A program with other names, given in the order in which names appear in it."""
    new = {"v": iter(variables), "f": iter(functions)}
    chosen = {name: next(new[name[0]]) for name in dict.fromkeys(_PLAIN.findall(source))}
    return _PLAIN.sub(lambda found: chosen[found[0]], source)


def normal(node: ast.AST) -> str:
    """A tree as text, equal for programs that differ only in the order of what is added or multiplied, however it is
    grouped, and the same in every version of Python, whose newer ones give nodes more fields."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        added, subtracted = (",".join(sorted(map(normal, parts))) for parts in _summands(node))
        return f"Sum({added};{subtracted})"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return f"Product({','.join(sorted(map(normal, _factors(node))))})"
    parts = []
    for name, value in ast.iter_fields(node):
        if isinstance(value, list):
            parts += [f"{name}=[{','.join(map(normal, value))}]"] if value else []
        elif value is not None:
            parts.append(f"{name}={normal(value) if isinstance(value, ast.AST) else repr(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _summands(node: ast.expr) -> tuple[list[ast.expr], list[ast.expr]]:
    """What is added, and what is subtracted."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Add | ast.Sub):
        return [node], []
    added, subtracted = _summands(node.left)
    more, less = _summands(node.right) if isinstance(node.op, ast.Add) else _summands(node.right)[::-1]
    return added + more, subtracted + less


def _factors(node: ast.expr) -> list[ast.expr]:
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
        return [node]
    return _factors(node.left) + _factors(node.right)


class _Writer:
    def __init__(self, rng: Random, level: int) -> None:
        self._rng = rng
        self._level = level
        self._functions: list[str] = []
        self._lines: list[str] = []
        self._indent = ""
        self._created = 0
        self._known: dict[Kind, list[str]] = {"number": [], "list": [], "text": []}
        self._items: list[str] = []

    def program(self) -> str:
        if self._level == 1:
            self._write(f"print({self._literal()} {self._rng.choice('+-*')} {self._literal()})")
        else:
            self.variable()
            constructs = _CONSTRUCTS[: self._level - 1]
            chosen = [constructs[-1], *self._rng.choices(constructs, k=max(0, self._level - 3))]
            self._rng.shuffle(chosen)
            for construct in chosen:
                construct(self)
            self._write(f"print({self._shown()})")
        return "\n".join([*self._functions, *self._lines]) + "\n"

    def variable(self) -> None:
        self._assign("number", self._expression(1) if self._known["number"] else str(self._literal()))

    def update(self) -> None:
        name = self._pick("number")
        if self._rng.random() < 0.5:
            self._write(f"{name} {self._rng.choice(('+=', '-='))} {self._leaf(name)}")
        else:
            self._write(f"{name} = {self._expression(2)}")
        self._known["number"].remove(name)
        self._known["number"].append(name)

    def branch(self) -> None:
        name = self._pick("number")
        if self._rng.random() < 0.4:
            divisor = self._rng.randint(2, 4)
            self._write(f"if {name} % {divisor} {self._rng.choice(('==', '!='))} {self._rng.randrange(divisor)}:")
        else:
            self._write(f"if {name} {self._rng.choice(('<', '>', '<=', '>='))} {self._leaf(name)}:")
        self._block()
        if self._rng.random() < 0.6:
            self._write("else:")
            self._block()

    def loop(self) -> None:
        over = self._rng.choice(("range({})", "range(1, {})")).format(self._rng.randint(3, 5))
        if self._known["list"] and self._rng.random() < 0.5:
            over = self._pick("list")
        item = self._name()
        self._write(f"for {item} in {over}:")
        self._items.append(item)
        self._block()
        self._items.pop()

    def sequence(self) -> None:
        kind: Kind = self._rng.choice(("list", "text"))
        if not self._known[kind]:
            numbers = [self._literal() for _ in range(self._rng.randint(3, 5))]
            self._assign(kind, repr(numbers if kind == "list" else self._rng.choice(_WORDS)))
        name = self._pick(kind)
        if kind == "list" and self._rng.random() < 0.3:
            self._write(f"{name}.append({self._expression(1)})")
        elif self._rng.random() < 0.5:
            self._assign(kind, self._rng.choice(_SAME[kind]).format(name))
        else:
            self._assign("number", self._rng.choice(_NUMBER[kind]).format(name))

    def function(self) -> None:
        """A function and a call of it; two to a program, further ones are updates."""
        if len(self._functions) == 2:
            self.update()
            return
        outside, self._known["number"] = self._known["number"], [self._name() for _ in range(self._rng.randint(1, 2))]
        parameters = list(self._known["number"])
        name = f"f{len(self._functions)}"
        lines = [f"def {name}({', '.join(parameters)}):"]
        if self._rng.random() < 0.5:
            lines += [f"    if {parameters[0]} > {self._literal()}:", f"        return {self._expression(1)}"]
        self._functions.append("\n".join([*lines, f"    return {self._expression(2)}", "", ""]))
        self._known["number"] = outside
        given = [self._pick("number"), str(self._literal())][: len(parameters)]
        self._assign("number", f"{name}({', '.join(given)})")

    def _block(self) -> None:
        """One or two statements, of which none makes a variable: it might be missing afterwards."""
        self._indent += "    "
        for _ in range(self._rng.randint(1, 2)):
            nested = self._level >= _NESTED and len(self._indent) == 4 and self._rng.random() < 0.3
            (self._rng.choice((_Writer.branch, _Writer.loop)) if nested else _Writer.update)(self)
        self._indent = self._indent[:-4]

    def _shown(self) -> str:
        kind = self._rng.choice([kind for kind, names in self._known.items() if names])
        if kind == "number" and self._rng.random() < 0.5:
            return self._expression(1)
        return self._known[kind][-1]

    def _expression(self, operators: int) -> str:
        """A number computed from a variable with so many operators."""
        name = self._pick("number")
        text = name
        for i in range(operators):
            divided = "/" in text or "%" in text  # a second division leaves little but zeros
            symbol = self._rng.choice("+-*" if divided or self._level == 2 else ("+", "-", "*", "//", "%"))
            right = self._leaf(name) if symbol in "+-" else str(self._rng.randint(2, 7))
            loose = i > 0 and symbol not in "+-" and text.count(" + ") + text.count(" - ")
            text = f"({text}) {symbol} {right}" if loose else f"{text} {symbol} {right}"
        return text

    def _leaf(self, but: str) -> str:
        """A number, or a variable but one: `v0 - v0` asks for nothing."""
        names = [name for name in (*self._items, *self._known["number"]) if name != but]
        return self._rng.choice(names) if names and self._rng.random() < 0.6 else str(self._literal())

    def _pick(self, kind: Kind) -> str:
        """A variable, more often than not the one that changed last, so that little of what is done is for nothing."""
        names = self._known[kind]
        return names[-1] if self._rng.random() < 0.6 else self._rng.choice(names)

    def _literal(self) -> int:
        return self._rng.randint(1, 20)

    def _name(self) -> str:
        self._created += 1
        return f"v{self._created - 1}"

    def _assign(self, kind: Kind, value: str) -> None:
        name = self._name()
        self._write(f"{name} = {value}")
        self._known[kind].append(name)

    def _write(self, line: str) -> None:
        self._lines.append(self._indent + line)


_CONSTRUCTS = (_Writer.variable, _Writer.update, _Writer.branch, _Writer.loop, _Writer.sequence, _Writer.function)
"""The one at i comes with level i + 2."""

_SAME: dict[Kind, tuple[str, ...]] = {
    "list": ("{}[::-1]", "sorted({})", "{}[1:]", "{}[:2]", "{0} + {0}"),
    "text": ("{}[::-1]", "{}.upper()", "{}[1:]", "{}[:2]", "{} + 'er'", "{} * 2"),
}
_NUMBER: dict[Kind, tuple[str, ...]] = {
    "list": ("len({})", "sum({})", "max({})", "min({})", "{}[0]", "{}[-1]"),
    "text": ("len({})", "{}.count('a')", "{}.count('e')"),
}
