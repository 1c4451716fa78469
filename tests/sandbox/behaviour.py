"""Whether a damaged program behaves otherwise at all, told without its tests' expectations.

`PROGRAM` runs inside the sandbox. `record` gives the calls that tests make of a program; `differs` compares two
programs on these calls and on calls beside them (numbers a little larger, lists shortened, turned, sorted; nothing that
becomes empty, zero or negative, which may lie outside what the program is for), wherever the first one accepts them.
"""

import ast

from eco.sandbox import Call, Sandbox

PROGRAM = """
import copy

def record(program, tests, names):
    namespace, calls = {}, []
    exec(program, namespace)
    def noted(name, function):
        def call(*args):
            calls.append((name, copy.deepcopy(args)))
            return function(*args)
        return call
    for name in names:
        namespace[name] = noted(name, namespace[name])
    exec(tests, namespace)
    return calls[:12]

def beside(value):
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value + 2] + [value - 1] * (value > 1)
    if isinstance(value, float):
        return [value + 1, value / 2]
    if isinstance(value, str):
        return [value[:-1], value[1:], value + value[:1], value[::-1]] * (len(value) > 1)
    if isinstance(value, dict):
        members = list(value.items())
        return [dict(members[1:]), dict(members[::-1])] * (len(members) > 1)
    if isinstance(value, (list, tuple)):
        members = list(value)
        others = [members[:-1], members[1:], members[::-1], members + members[:1], sorted(members, key=repr)]
        others *= len(members) > 1
        for i in range(min(len(members), 4)):
            others += [members[:i] + [other] + members[i + 1:] for other in beside(members[i])[:2]]
        return [type(value)(other) for other in others]
    return []

def result(function, args):
    try:
        return "value", function(*copy.deepcopy(args))
    except Exception as error:
        return "error", type(error).__name__

def differs(program, damaged, calls):
    one, other = {}, {}
    exec(program, one)
    try:
        exec(damaged, other)
    except Exception:
        return True
    for name, args in calls[:]:
        calls += [(name, args[:i] + (new,) + args[i + 1:]) for i in range(len(args)) for new in beside(args[i])]
    for name, args in calls:
        expected = result(one[name], args)
        given = result(other[name], args)
        if expected[0] == "value" and expected != given and repr(expected) != repr(given):
            return True
    return False
"""


def differing(sandbox: Sandbox, triples: list[tuple[str, str, str]]) -> list[bool]:
    """Of (program, damaged program, tests): whether the two differ. Running out of time counts.

    What needs objects of the program as arguments cannot be recorded; it is taken to differ.
    """
    asked = [(PROGRAM, [Call("record", (program, tests, _functions(program, tests)))]) for program, _, tests in triples]
    recorded = [outcome for (outcome,) in sandbox.run_many(asked)]
    jobs = [
        (PROGRAM, [Call("differs", (program, damaged, calls.value or []))])
        for (program, damaged, _), calls in zip(triples, recorded, strict=True)
    ]
    compared = [outcome for (outcome,) in sandbox.run_many(jobs)]
    return [
        calls.kind != "pass" or outcome.kind != "pass" or outcome.value
        for calls, outcome in zip(recorded, compared, strict=True)
    ]


def _functions(program: str, tests: str) -> list[str]:
    used = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    return [node.name for node in ast.parse(program).body if isinstance(node, ast.FunctionDef) and node.name in used]
