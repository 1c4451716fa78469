"""The program in a completion, found by its words and lines alone.

Nothing here parses or compiles: a text made for it can end the interpreter that does. Every pattern takes a time that
is linear in the text.
"""

import re
from collections.abc import Iterator, Sequence

_FENCE = re.compile(r"^[ \t]*+```[^\n`]*+\n(.*?)(?:^[ \t]*+```|\Z)", re.DOTALL | re.MULTILINE)

_LEXEME = re.compile(
    r"""
      ^(?=[^\s#])                                        # a line begins at the margin: no characters are taken
    | \"{3} (?: [^"\\] | \\. | \"(?!\"\") )*+ (?:\"{3})?   # strings, closed or not
    | '{3} (?: [^'\\] | \\. | '(?!'') )*+ (?:'{3})?
    | "(?: [^"\\\n] | \\. )*+ "?
    | '(?: [^'\\\n] | \\. )*+ '?
    | \#[^\n]*+
    | \\.                                                # a line that goes on
    | [(\[{]
    | [)\]}]
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)

_DEFINITION = re.compile(r"(?:async\s+)?def\s+\w|class\s+\w+\s*[:(]|from\s+[\w.]+\s+import\b|import\s+\w|@\w")
_ASSIGNMENT = re.compile(r"\w+\s*(?::[^=\n]*+)?=(?!=)")
_COMMENT = re.compile(r"#[^\n]*+")


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stops."""
    return text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))]


def fenced(text: str) -> list[str]:
    """What stands between fences of three backticks; the last fence may be missing."""
    return _FENCE.findall(text)


def is_indented(text: str) -> bool:
    """Whether the first line that is not blank continues a block."""
    return text[: len(text) - len(text.lstrip())].rpartition("\n")[2] != ""


def continuation(text: str) -> str:
    """The part of an indented text that belongs to its block: all before the first statement at the margin."""
    return text[: next(_at_margin(text), len(text))]


def definitions(text: str) -> str:
    """The functions, classes, imports and assignments at the margin, from the first function, class or import up to
    the first statement of another kind: words before it and a trial run after it are not part of the answer."""
    first = end = None
    for at in _at_margin(text):
        defines = _DEFINITION.match(text, at) is not None
        if first is None and defines:
            first = at
        elif first is not None and not defines and not _ASSIGNMENT.match(text, at):
            end = at
            break
    return "" if first is None else text[first:end]


def where_defined(text: str, function: str) -> int | None:
    """Where the definition of a function begins at the margin; None if there is none."""
    found = re.search(rf"^(?:async[ \t]++)?def[ \t]++{re.escape(function)}\b", text, re.MULTILINE)
    return None if found is None else found.start()


def defines_anything(text: str) -> bool:
    """Whether a statement at the margin binds a name."""
    return any(_DEFINITION.match(text, at) or _ASSIGNMENT.match(text, at) for at in _at_margin(text))


def is_only_comments(text: str) -> bool:
    return not _COMMENT.sub("", text).strip()


def _at_margin(text: str) -> Iterator[int]:
    """Where statements begin at the margin: not within strings or brackets, and not comments."""
    depth = 0
    goes_on = -1
    for lexeme in _LEXEME.finditer(text):
        if not lexeme[0]:
            if depth == 0 and lexeme.start() != goes_on:
                yield lexeme.start()
        elif lexeme[0] == "\\\n":
            goes_on = lexeme.end()
        elif lexeme[0] in "([{":
            depth += 1
        elif lexeme[0] in ")]}":
            depth = max(0, depth - 1)
