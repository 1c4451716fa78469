from collections.abc import Iterator

import pytest
from roles import Roles

from eco.sandbox import Sandbox

ADD = "def add(a, b): return a + b\n"
FORGE = """
import os, json, sys, threading
wait = threading.Event().wait
def asked(): return sys._getframe(3).f_locals['identity']
def send(message):
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    os.write(31, len(data).to_bytes(4, 'little') + data)
"""


@pytest.fixture(scope="module")
def roles() -> Iterator[Roles]:
    server = Roles()
    yield server
    server.close()


def test_tests_that_run_to_their_end_pass(roles: Roles) -> None:
    assert roles.judge(ADD, "assert add(2, 3) == 5\nassert add(b=1, a='x'.__len__()) == 2") == ("pass", "")


def test_a_failing_assertion_names_its_line(roles: Roles) -> None:
    tests = "def check(f):\n    for a in range(3):\n        assert f(a, 1) != 3\n\ncheck(add)"
    assert roles.judge(ADD, tests) == ("fail", "line 3: assert f(a, 1) != 3: AssertionError")


@pytest.mark.parametrize(
    ("tests", "detail"),
    [
        ("assert missing(1) == 1", "NameError: name 'missing' is not defined"),
        ("assert add(1, 'a')", "TypeError: unsupported operand"),
        ("add(1, 2)\nimport sys\nsys.exit(0)", "line 3: sys.exit(0): SystemExit: 0"),
        ("add(1, 2)\nraise KeyboardInterrupt", "KeyboardInterrupt"),
        ("", "asked nothing of the program"),
        ("assert True", "asked nothing of the program"),
        ("def check(f):\n    assert f(1, 1) == 2", "asked nothing of the program"),
        ("def check(f):\n    return check(f)\ncheck(add)", "RecursionError"),
    ],
)
def test_whatever_ends_the_tests_early_is_not_a_pass(roles: Roles, tests: str, detail: str) -> None:
    outcome, said = roles.judge(ADD, tests)
    assert outcome == "fail"
    assert detail in said


@pytest.mark.parametrize(
    "program", ["", "   \n", "# add", "pass", "import math", "x = 5", "add = 5", "def add(): pass"]
)
def test_programs_without_the_function_fail(roles: Roles, program: str) -> None:
    assert roles.judge(program, "assert add(2, 3) == 5")[0] == "fail"


@pytest.mark.parametrize("tests", ["assert add(1, 2) ==", "x = '\0'", "x = " + "-" * 100_000 + "1"])
def test_tests_that_do_not_compile_are_not_the_programs_fault(roles: Roles, tests: str) -> None:
    outcome, detail = roles.judge(ADD, tests)
    assert outcome == "infrastructure"
    assert "do not compile" in detail


@pytest.mark.parametrize("caught", [False, True])
def test_arguments_that_cannot_be_carried_are_not_the_programs_fault(roles: Roles, caught: bool) -> None:
    tests = "add(1, lambda: 1)"
    if caught:
        tests = f"try:\n    {tests}\nexcept BaseException:\n    pass"
    outcome, detail = roles.judge(ADD, tests + "\nassert add(1, 2) == 3")
    assert outcome == "infrastructure"
    assert "type function cannot be carried" in detail


def test_a_program_cannot_escape_failing_by_large_results(roles: Roles) -> None:
    program = "def f(x): return 'x' * (1 << 19)"
    assert roles.judge(program, "assert f([f(1), f(2), f(3)]) == 1")[0] == "fail"


@pytest.mark.parametrize(
    ("raised", "caught", "outcome"),
    [
        ("ValueError('no')", "ValueError", "pass"),
        ("ValueError('no')", "KeyError", "fail"),
        ("Mine('no')", "LookupError", "pass"),
        ("Mine('no')", "KeyError", "fail"),
        ("SystemExit(0)", "SystemExit", "fail"),
        ("KeyboardInterrupt()", "KeyboardInterrupt", "fail"),
        ("SystemExit('no')", "Exception", "pass"),
        ("UnicodeDecodeError('no', b'', 0, 1, 'no')", "Exception", "pass"),
    ],
)
def test_exceptions_of_the_program_are_raised_as_the_builtin_they_are(
    roles: Roles, raised: str, caught: str, outcome: str
) -> None:
    program = f"class Mine(LookupError): pass\ndef f(): raise {raised}"
    tests = f"try:\n    f()\nexcept {caught} as error:\n    assert 'no' in str(error)\nelse:\n    assert False"
    assert roles.judge(program, tests)[0] == outcome


def test_a_program_out_of_memory_is_told_apart(roles: Roles) -> None:
    assert roles.judge("def f(): raise MemoryError", "f()")[0] == "memory"


@pytest.mark.parametrize("kind", ["StopIteration", "StopAsyncIteration", "type('S', (StopIteration,), {})"])
def test_a_program_cannot_end_a_loop_of_the_tests(roles: Roles, kind: str) -> None:
    program = f"def f(x): raise {kind}"
    assert roles.judge(program, "assert all(map(lambda case: f(case) == case, [1, 2]))")[0] == "fail"


@pytest.mark.parametrize(
    ("cheat", "tests"),
    [
        ("def abs(x): return 0", "assert abs(f(2) - 4) < 0.1"),
        ("def isinstance(*a): return True", "assert isinstance(f(2), str)"),
        ("class AssertionError(Exception): pass", "assert f(2) == 4"),
        ("class math: isclose = staticmethod(lambda *a: True)", "assert math.isclose(f(2), 4)"),
        ("import builtins; builtins.abs = lambda x: 0", "assert abs(f(2) - 4) < 0.1"),
        ("def check(f): pass", "def check(g):\n    assert g(2) == 4\ncheck(f)"),
        ("__name__ = '__main__'; __builtins__ = {}; __debug__x = 0", "assert f(2) == 4"),
        ("class E:\n def __eq__(s, o): return True\nf = lambda x: E()", "assert f(2) == 4"),
        (
            "class E:\n def __eq__(s, o): return True\n def __ne__(s, o): return False\nf = lambda x: E()",
            "assert 4 == f(2)",
        ),
        ("class E(int):\n def __eq__(s, o): return True\nf = lambda x: E(1)", "assert f(2) == 4"),
        ("class E:\n def __bool__(s): return True\nf = lambda x: E()", "assert f(2)"),
        ("class E:\n def __contains__(s, o): return True\nf = lambda x: E()", "assert 4 in f(2)"),
        ("class E:\n def __float__(s): return 4.0\nf = lambda x: E()", "assert float(f(2)) == 4"),
        ("class E:\n def __class__(s): return int\nf = lambda x: E()", "assert isinstance(f(2), int)"),
        ("class E: pass\ne = E()\nf = lambda x: e", "assert f(2) == f(3)"),
        ("class E: pass\ne = E()\nf = lambda x: e", "assert f(2) in [f(3)]"),
        ("import gc, sys\ngc.get_objects()\nsys._getframe(1).f_globals.clear()\nf = lambda x: x", "assert f(2) == 4"),
        ("import sys\nsys.modules.clear()\nf = lambda x: x", "assert f(2) == 4"),
        ('print(\'["verdict","pass",""]\')', "assert f(2) == 4"),
        ("import sys; sys.exit(0)", "assert f(2) == 4"),
        ("import os; os._exit(0)", "assert f(2) == 4"),
        ("def f(x):\n import os; os._exit(0)", "assert f(2) == 4"),
    ],
    ids=range(22),
)
def test_cheats_do_not_pass(roles: Roles, cheat: str, tests: str) -> None:
    assert roles.judge("def f(x): return 1\n" + cheat, tests)[0] in ("fail", "crash")


def test_what_is_called_like_a_builtin_or_a_module_is_never_the_programs(roles: Roles) -> None:
    assert roles.judge("def sum(a): return 1\ndef set(a): return 1", "assert set(sum([1])) == set([3])")[0] == "fail"
    assert roles.judge("class math: floor = abs", "assert math.floor(2.5) == 2.5")[0] == "fail"
    assert roles.judge("def sum(a, b): return a - b\nf = sum", "sum = f\nassert sum(3, 2) == 1") == ("pass", "")
    assert roles.judge("def f(a): return a\ndef sum(a): return 7", "assert sum([f(3)]) == 7")[0] == "fail"


def test_modules_and_values_and_types_in_tests(roles: Roles) -> None:
    program = "import math as m\nLIMIT = {'a': (1, 2.5)}\ndef f(x, kind=int): return kind(x)\n"
    tests = "import re\nassert math.floor(f(2.5)) == 2 and LIMIT == {'a': (1, 2.5)} and f('3', str) == '3'"
    assert roles.judge(program, tests) == ("pass", "")


def test_what_is_like_a_list_can_be_compared_as_one(roles: Roles) -> None:
    program = """
from collections import deque
def f(kind):
    made = {2: 1, 1: 2}
    return {'r': range(3), 'q': deque([1, 2]), 'k': made.keys(), 'v': made.values(), 'n': made.items()}[kind]
"""
    tests = """
assert list(f('r')) == [0, 1, 2] and f('r') != [0, 1, 2]
assert list(f('q')) == [1, 2] and f('q').popleft() == 1
assert list(f('k')) == [2, 1] and f('k') == {1, 2} and sorted(f('v')) == [1, 2] and list(f('n')) == [(2, 1), (1, 2)]
"""
    assert roles.judge(program, tests) == ("pass", "")


def test_objects_of_the_program_can_be_made_changed_and_passed_back(roles: Roles) -> None:
    program = """
class Node:
    def __init__(self, data): self.data, self.left, self._link = data, None, 'own'
    def depth(self): return 1 + (self.left.depth() if self.left else 0)
def known(node): return {node: node.data}
def total(nodes): return sum(node.data for node in nodes)
"""
    tests = """
root = Node(1)
root.left = Node(2)
root.left.left = Node(3)
assert root.depth() == 3 and root.left.data == 2 and root._link == 'own' and root.left.left.left is None
assert total([root, root.left]) == 3 and total({1: root}.values().__class__ and (root,)) == 1
assert list(known(root).values()) == [1] and len({root, root.left}) == 2
assert repr(root) == '<Node of the program>'
"""
    assert roles.judge(program, tests) == ("pass", "")


@pytest.mark.parametrize(
    "program",
    [
        "send(['ready', {'f': 'callable'}])\nsend(['value', '0', 4])\ndef f(x): return 4",
        "def f(x):\n    send(['value', '0', 4])\n    return 4",
        "def f(x):\n    send(['verdict', 'pass', ''])\n    return 4",
        "def f(x):\n    send(['value'])\n    return 4",
        "def f(x):\n    send([])\n    return 4",
        "def f(x):\n    send(b'')\n    send(b'garbage')\n    return 4",
        "def f(x):\n    send(b'[' * 100000)\n    return 4",
        "def f(x):\n    os.write(31, bytes([255] * 4))\n    return 4",
        "def f(x):\n    send(['value', asked(), 4, 5])\n    wait()",
        "def f(x):\n    send(['values', asked(), 4])\n    wait()",
        "def f(x):\n    send(['error', asked(), 'ValueError', 4, ''])\n    wait()",
        "def f(x):\n    send(['value', asked(), {'y': 'eval'}])\n    wait()",
        "def f(x):\n    for _ in range(2): send(['value', asked(), 4])\n    return 4",
        "send(['ready', ['f']])\ndef f(x): return 4",
        "send(['ready', {'d': [['f', 'module']]}])\ndef f(x): return 4",
        "send(['failed', 1, 2])",
        "send([1])",
    ],
    ids=range(17),
)
@pytest.mark.parametrize("caught", [False, True])
def test_a_process_that_says_what_an_honest_one_does_not_is_tampering(roles: Roles, program: str, caught: bool) -> None:
    tests = "for _ in range(3): assert f(2) == 4"
    if caught:
        tests = "for _ in range(3):\n    try: assert f(2) == 4\n    except BaseException: pass"
    outcome, _ = roles.judge(FORGE + program, tests)
    assert outcome in ("tamper", "crash")


def test_a_process_that_never_answers_is_stopped(roles: Roles) -> None:
    assert roles.judge("def f(x):\n    while True: pass", "f(1)", seconds=0.3)[0] == "timeout"


def test_tests_that_draw_cases_draw_the_same_each_time(roles: Roles) -> None:
    tests = "from random import random\nassert f(1) == 1\nassert random() < 0, str(random())"
    first, second = (roles.judge("def f(x): return x", tests) for _ in range(2))
    assert first == second
    assert "AssertionError: 0." in first[1]


SEARCH = """
def find(parts):
    import gc, sys
    marker = ''.join(parts)
    found = []
    for thing in gc.get_objects():
        for value in [thing, *gc.get_referents(thing)]:
            if type(value) in (str, bytes) and marker in (value if type(value) is str else value.decode('latin-1')):
                found.append('object')
    wanted = [marker.encode(), marker.encode('utf-16-le'), marker.encode('utf-32-le')]
    own = {id(marker), *map(id, wanted)}
    with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
        for line in maps:
            span, permissions = line.split()[:2]
            start, end = (int(part, 16) for part in span.split('-'))
            if permissions[0] != 'r' or 'vvar' in line or 'vsyscall' in line: continue
            memory.seek(start)
            data = memory.read(end - start)
            for text in wanted:
                at = data.find(text)
                while at >= 0:
                    if not any(0 <= start + at - address < 200 for address in own): found.append(hex(start + at))
                    at = data.find(text, at + 1)
    return found
"""


def test_the_tests_are_nowhere_in_the_memory_of_the_program() -> None:
    """At the level that hides nothing of it: what is not there cannot be found at any level."""
    tests = "# tunic-quartz\nexpected = 'tunic-quartz'\nassert find(['tunic-', 'quartz']) == [], 'found'"
    control = "assert find(['zephyr-', 'lagoon']) != []"
    with Sandbox("weak", workers=1) as sandbox:
        for _ in range(3):  # later runs could find what earlier ones left behind
            outcome = sandbox.judge("# zephyr-lagoon\n" + SEARCH, tests)
            assert outcome.kind == "pass", outcome.detail
        outcome = sandbox.judge("hidden = 'zephyr-' 'lagoon'\n" + SEARCH, control)
        assert outcome.kind == "pass", outcome.detail
        outcome = sandbox.judge(SEARCH, "assert find(['zephyr-', 'lagoon']) == [], 'an earlier program'")
        assert outcome.kind == "pass", outcome.detail
