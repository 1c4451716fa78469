import time
from collections.abc import Iterator
from typing import Any

import pytest
from roles import Roles

from eco.sandbox import protocol
from eco.sandbox.codec import Malformed, encode
from eco.sandbox.protocol import Failure


@pytest.fixture(scope="module")
def roles() -> Iterator[Roles]:
    server = Roles()
    yield server
    server.close()


def run(roles: Roles, program: str, *questions: Any, handles: bool = False) -> list[Any]:
    """What a candidate answers to calls (function, args...) or other questions; None where it is gone."""
    ids, frames = [], []
    for question in questions:
        ids.append(protocol.new_id())
        if isinstance(question, tuple):
            frames.append(protocol.call(ids[-1], question[0], question[1:], {}))
        else:
            frames.append(encode([question[0], ids[-1], *question[1:]]))
    greeting, *answers = [*roles.run(program, frames, handles), *[b""] * (len(frames) + 1)][: len(frames) + 1]
    if not greeting:
        return [None]
    names = protocol.greeting(greeting)
    if isinstance(names, Failure):
        return [names]
    results = [
        protocol.answer(data, identity, pair) if data else None for data, identity in zip(answers, ids, strict=True)
    ]
    return [result[0] if result is not None and not isinstance(result, Failure) else result for result in results]


def pair(reference: int | str, kind: str) -> Any:
    return {"reference": reference, "kind": kind}


def test_calls_are_answered_in_one_namespace(roles: Roles) -> None:
    program = "count = 0\ndef up(by=1):\n    global count\n    count += by\n    return {count: (by, None)}"
    assert run(roles, program, ("up",), ("up", 5), ["get", None, "count"]) == [{1: (1, None)}, {6: (5, None)}, 6]


def test_keyword_arguments(roles: Roles) -> None:
    frame = protocol.call("1", "f", [1], {"b": 2})
    frames = roles.run("def f(a, b): return a - b", [frame])
    assert protocol.answer(frames[1], "1") == (-1,)


def test_public_names_are_told_with_their_kind(roles: Roles) -> None:
    program = "import math as m\nfrom math import sqrt\n_x = 1\n__y = 2\nclass A: pass\ndef f(): pass"
    (frame,) = roles.run(program, [])
    assert protocol.greeting(frame) == {"sqrt": "callable", "_x": "value", "A": "callable", "f": "callable"}


@pytest.mark.parametrize(
    ("program", "name", "words"),
    [
        ("def f(", "SyntaxError", "line 1"),
        ("x = 1\n  y = 2", "IndentationError", "line 2"),
        ("x = 1 / 0", "ZeroDivisionError", "division"),
        ("raise SystemExit(0)", "SystemExit", "0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("raise MemoryError", "MemoryError", ""),
        ("def f(): f()\nf()", "RecursionError", "depth"),
        ("x = 'a' * 10**14", "MemoryError", ""),
        ("a\0b", "SyntaxError", "null bytes"),
        ("x = '\ud800'", "UnicodeEncodeError", "surrogates"),
        ("x = " + "9" * 5000, "SyntaxError", "4300 digits"),
        ("x = " + "(" * 500, "SyntaxError", "nested"),
        ("x = " + "-" * 100_000 + "1", "MemoryError", ""),
        ("x" + 100_000 * ".x" + " = 1", "RecursionError", ""),
        ("class E(BaseException):\n def __str__(self): raise E\nraise E", "E", "could not be made"),
        ("class E(Exception):\n def __str__(self): return 'x' * 10**6\nraise E", "E", "x" * 500),
    ],
    ids=range(16),
)
def test_a_program_that_fails_says_how(roles: Roles, program: str, name: str, words: str) -> None:
    (failure,) = run(roles, program)
    assert isinstance(failure, Failure)
    assert failure.name == name
    assert words in failure.message
    assert len(failure.message) <= 500


def test_exceptions_of_a_call_name_their_nearest_builtin_base(roles: Roles) -> None:
    program = """
class Mine(KeyError): pass
class Fake(Exception): pass
Fake.__name__ = "ValueError"
errors = [None, Mine('k'), SystemExit(0), Fake(), GeneratorExit(), UnicodeDecodeError('u', b'', 0, 1, 'r')]
def raises(kind): raise errors[kind]
"""
    failures = run(roles, program, *[("raises", kind) for kind in range(1, 6)], ("absent",))
    names = [("Mine", "KeyError"), ("SystemExit", ""), ("ValueError", "Exception"), ("GeneratorExit", "")]
    names += [("UnicodeDecodeError", "UnicodeDecodeError"), ("NameError", "NameError")]
    assert [(failure.name, failure.base) for failure in failures] == names
    assert str(failures[0]) == "Mine: 'k'"


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("(i for i in [1])", "type generator cannot"),
        ("object()", "type object cannot"),
        ("type('Two', (), {})()", "type Two cannot"),
        ("iter([3])", "type list_iterator cannot"),
        ("[0] * 10**7", "larger than"),
        ("'x' * 10**8", "larger than"),
        ("1 << 10**9", "larger than"),
        ("loop", "contains itself"),
        ("deep", "100 containers"),
        ("wide", "larger than"),
    ],
)
def test_a_result_that_cannot_be_carried_is_an_error(roles: Roles, result: str, words: str) -> None:
    program = f"""
loop = []
loop.append(loop)
deep, wide = [], []
for _ in range(100_000): deep = [deep]
for _ in range(60): wide = [wide, wide]
def f(): return {result}
def g(): return 1
"""
    failure, after = run(roles, program, ("f",), ("g",))
    assert isinstance(failure, Failure)
    assert words in failure.message
    assert after == 1


@pytest.mark.parametrize(
    "spoil",
    [
        "import sys; sys.stdout = sys.stderr = None",
        "import sys; sys.stdout.close()",
        "print('x' * 100_000)",
        "import time; time.time = time.sleep = None",
        "import sys; sys.setrecursionlimit(60)",
        "import sys; sys.setrecursionlimit(10**8)",
        "import threading; threading.Thread(target=threading.Event().wait).start()",
        "import atexit, time; atexit.register(time.sleep, 100)",
        "import os; os.close(0)",
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "import gc; gc.disable()",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int' = 1",
    ],
)
def test_a_program_may_do_odd_things_and_still_answer(roles: Roles, spoil: str) -> None:
    begun = time.monotonic()
    assert run(roles, spoil + "\ndef f(): return [1, {'a': (2,)}]", ("f",), ("f",)) == [[1, {"a": (2,)}]] * 2
    assert time.monotonic() - begun < 4


@pytest.mark.parametrize(
    "spoil",
    [
        "import os; os._exit(0)",
        "import os; os.closerange(0, 100)",
        "import builtins; builtins.isinstance = None",
        "import json; json.dumps = lambda *a, **k: 'null'",
        'import json; json.dumps = lambda *a, **k: \'["value", "1", 1]\'',
        "import os; os.kill(os.getpid(), 9)",
        "import ctypes; ctypes.string_at(0)",
    ],
)
def test_a_program_that_breaks_its_own_process_gives_no_value(roles: Roles, spoil: str) -> None:
    try:
        results = run(roles, "def f():\n    " + spoil + "\n    return 1", ("f",), ("f",))
    except Malformed:
        return
    assert all(result is None or isinstance(result, Failure) for result in results)
    assert results[0] is None or results[1] is None


def test_objects_stay_here_and_their_handles_can_be_used(roles: Roles) -> None:
    program = """
class Pair:
    def __init__(self, a): self.a = a
    def more(self, by): return self.a + by
def make(a): return [Pair(a), 0]
def read(pairs): return [pair.a for pair in pairs]
"""
    handle = {"reference": 0, "kind": "Pair"}
    assert run(roles, program, ("make", 5), handles=True) == [[handle, 0]]
    id_, frames = "1", [protocol.call("1", "make", [5], {})]

    def refer(value: Any) -> tuple[int, str]:
        return value.number, "Pair"

    class Handle:
        number = 0

    class Method:
        number = 1

    frames.append(encode(["set", id_, Handle(), "a", 7], refer))
    frames.append(encode(["call", id_, "read", ([Handle()],), {}], refer))
    frames.append(encode(["get", id_, Handle(), "more"], refer))
    frames.append(encode(["call", id_, Method(), (3,), {}], refer))
    frames.append(encode(["get", id_, Handle(), "b"], refer))
    answers = [protocol.answer(frame, id_, pair) for frame in roles.run(program, frames, handles=True)[1:]]
    method = ({"reference": 1, "kind": "method"},)
    assert answers[1:5] == [(None,), ([7],), method, (10,)]
    assert answers[5] == Failure("AttributeError", "AttributeError", "'Pair' object has no attribute 'b'")


def test_random_numbers_and_sets_are_the_same_each_time(roles: Roles) -> None:
    program = "import random\ndef f(): return [random.random(), list({'a', 'b', 'c', 'd'})]"
    assert run(roles, program, ("f",)) == run(roles, program, ("f",))
