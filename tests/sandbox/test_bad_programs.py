"""Bad input gets an outcome, never an exception: whatever a program is, does or returns."""

import json

import pytest

from eco.sandbox import Call, Limits, Outcome, Sandbox
from eco.sandbox.levels import missing

FUNCTION = "def f(x=None):\n    return {}\n"

PROGRAMS = {
    "nothing": ("", "fail"),
    "no such name": ("g = 1", "fail"),
    "not a function": ("f = 1", "fail"),
    "wrong number of arguments": ("def f(a, b): pass", "fail"),
    "syntax error": ("def f(:", "fail"),
    "bad indent": ("def f(x):\nreturn 1", "fail"),
    "a null byte": ("def f(x): pass\x00", "fail"),
    "a surrogate": ("def f(x): return '\udc80'", "fail"),
    "an unknown encoding": ("# -*- coding: nonsense -*-\ndef f(x): return 1", "pass"),
    "nested too deep to parse": (f"def f(x): return {'(' * 5000}{')' * 5000}", "fail memory crash"),
    "nested too deep to compile": (f"def f(x): return {'-' * 200000}1", "fail memory crash"),
    "a long line": ("def f(x): return 1 # " + "x" * 500_000, "pass"),
    "longer than a job may be": ("x = '" + "x" * (3 << 20) + "'", "fail"),
    "a literal of a gigabyte": ("x = 'x' * (1 << 30)\ndef f(x): return 1", "memory fail"),
    "an integer literal of many digits": (f"def f(x): return {'9' * 100_000}", "fail"),
    "an exception while loading": ("1 / 0", "fail"),
    "SystemExit while loading": ("raise SystemExit(0)", "fail"),
    "KeyboardInterrupt while loading": ("raise KeyboardInterrupt", "fail"),
    "exit in a call": (FUNCTION.format("exit(0)"), "fail"),
    "recursion without end": (FUNCTION.format("f()"), "fail"),
    "recursion beyond the stack": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)\n",
        "fail crash memory timeout",
    ),
    "a crash": ("import ctypes\ndef f(x): ctypes.string_at(0)", "crash"),
    "an abort": ("import os\ndef f(x): os.abort()", "crash"),
    "an exit": ("import os\ndef f(x): os._exit(0)", "crash"),
    "death by a signal without a name": (
        "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGRTMIN + 6)",
        "pass fail crash",  # the first process of a pid namespace does not die of it
    ),
    "a generator": ("def f(x): yield 1", "fail"),
    "a coroutine": ("async def f(x): return 1", "fail"),
    "an iterator": (FUNCTION.format("map(str, [1])"), "fail"),
    "a custom object": ("class C: pass\n" + FUNCTION.format("C()"), "fail"),
    "a function": (FUNCTION.format("f"), "fail"),
    "a module": ("import os\n" + FUNCTION.format("os"), "fail"),
    "a list that holds itself": ("def f(x):\n    a = []\n    a.append(a)\n    return a", "fail"),
    "a dict that holds itself": ("def f(x):\n    a = {}\n    a[1] = [a]\n    return a", "fail"),
    "lists in lists": ("def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a", "fail"),
    "a huge integer": (FUNCTION.format("10**100_000"), "pass"),
    "an integer that takes for ever": (FUNCTION.format("10**10**8"), "timeout memory"),
    "a value of 100 MB": (FUNCTION.format("'x' * (100 << 20)"), "fail memory"),
    "a value that doubles without end": (
        "def f(x):\n    a = [0]\n    for _ in range(60): a = [a, a]\n    return a",
        "fail memory timeout",
    ),
    "half a character": (FUNCTION.format("'\\udc80'"), "pass"),
    "not a number": (FUNCTION.format("float('nan')"), "pass"),
    "numbers made to collide": (FUNCTION.format("{i * (2**61 - 1) for i in range(30_000)}"), "fail timeout"),
    "an error that cannot be shown": (
        "class E(Exception):\n    def __str__(self): raise self\ndef f(x): raise E\n",
        "fail",
    ),
    "an error with half characters": ("def f(x): raise ValueError('\\udc80\\n\\x1b[31m' * 10_000)", "fail"),
    "an error whose name is no name": ("def f(x): raise type('\\n\\udc80' * 9, (Exception,), {})", "fail"),
    "an error of a group": ("def f(x): raise ExceptionGroup('g', [ValueError('v')])", "fail"),
    "print of half characters": ("def f(x):\n    print('\\udc80')\n    return 1", "pass fail"),
    "no standard output": ("import sys\nsys.stdout = sys.stderr = None\ndef f(x):\n    print(1)\n    return 1", "pass"),
    "reading the input": ("def f(x): return input()", "fail"),
    "a trace of every line": ("import sys\nsys.settrace(lambda *_: 1 / 0)\ndef f(x): return 1", "pass fail crash"),
    "no builtins": ("import builtins\nbuiltins.__dict__.clear()\ndef f(x): return 1", "fail crash tamper"),
    "no modules": ("import sys\nsys.modules.clear()\ndef f(x): return 1", "pass fail crash tamper"),
    "a class with a hostile metaclass": (
        "class M(type):\n    def __getattribute__(c, n): raise SystemExit\nclass C(metaclass=M): pass\n"
        + FUNCTION.format("C()"),
        "fail crash",
    ),
    "an object that lies about its class": (
        "class C:\n    __class__ = property(lambda self: int)\n" + FUNCTION.format("C()"),
        "fail",
    ),
}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(limits=Limits(seconds=1.0, memory_mb=256), workers=1) as one:
        yield one


def check(outcome: Outcome, wanted: str) -> None:
    assert outcome.kind in wanted.split(), outcome
    json.dumps(outcome.detail + outcome.output).encode()
    (outcome.detail + outcome.output).encode()  # can be printed and written to a file
    assert outcome.detail.isprintable() and len(outcome.detail) < 2000
    assert bool(outcome.detail) == (outcome.kind != "pass")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_call_of_a_bad_program_has_an_outcome(name: str, sandbox: Sandbox) -> None:
    program, wanted = PROGRAMS[name]
    (outcome,) = sandbox.run(program, [Call("f", (1,))])
    check(outcome, wanted)
    if outcome.kind != "pass":
        assert outcome.value is None


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_bad_program_does_not_pass_a_test(name: str, sandbox: Sandbox) -> None:
    outcome = sandbox.judge(PROGRAMS[name][0], "assert f(1) == 'what none of them returns'")
    check(outcome, "fail timeout memory crash tamper")


TESTS = {
    "nothing": "",
    "a comment": "# no test",
    "what does not ask": "assert True",
    "a syntax error": "assert f(",
    "a null byte": "assert f(1) == 1\x00",
    "a surrogate": "assert f(1) == '\udc80'",
    "an endless loop": "while True: f(1)",
    "an exit": "import os\nf(1)\nos._exit(0)",
    "SystemExit": "f(1)\nraise SystemExit(0)",
}


@pytest.mark.parametrize("name", TESTS)
def test_bad_tests_never_pass(name: str, sandbox: Sandbox) -> None:
    check(sandbox.judge("def f(x): return 1", TESTS[name]), "fail timeout infrastructure")


@pytest.mark.skipif(missing("no-userns") is not None, reason=str(missing("no-userns")))
def test_a_signal_without_a_name_kills_where_there_is_no_pid_namespace() -> None:
    program = PROGRAMS["death by a signal without a name"][0]
    with Sandbox("no-userns", workers=1) as sandbox:
        (outcome,) = sandbox.run(program, [Call("f", (1,))])
    check(outcome, "crash")


def test_the_worker_is_whole_after_all_that(sandbox: Sandbox) -> None:
    assert sandbox.judge("def f(x): return x + 1", "assert f(1) == 2").kind == "pass"
