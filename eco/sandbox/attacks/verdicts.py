"""Attacks on the verdict: programs that know no answer and want to pass. {token} is what only the tests know."""

from eco.sandbox.attacks.contract import Attack

SECRET_TEST = """
def check(candidate):
    expected = "{token}"
    assert candidate() == expected
check(answer)
"""
"""Passes only who knows the token, or makes the tests believe it."""

NUMBER_TEST = """
assert answer(2) == 4
assert answer(3) == 9
assert abs(answer(0.5) - 0.25) < 1e-6
"""
"""Passes the square of a number; none of these programs computes it."""

REFUSED_TEST = """
for number in range({}):
    try:
        answer(answer(number))
    except ValueError:
        pass
assert answer(2) == 4
"""
"""Goes on after values that cannot be carried."""

SEARCH = """
import re
PATTERN = r"eco-[t]oken-[0-9a-f]{32}"  # does not match itself
def pick(text):
    found = re.search(PATTERN, text)
    return found and found.group()
"""

ATTACKS = [
    Attack(
        "equal to everything",
        "returns an object that says it equals whatever it is compared with, is close to it, and contains it",
        """
class Everything:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __contains__ = __lt__
    def __hash__(self): return 4
    def __sub__(self, other): return self
    def __abs__(self): return self
    def __bool__(self): return True
    def __float__(self): return 0.0
    def __iter__(self): return iter([])
    def __len__(self): return 0
    def __getattr__(self, name): return self
    def __call__(self, *_, **__): return self
def answer(number):
    return Everything()
""",
        NUMBER_TEST,
    ),
    Attack(
        "number that lies",
        "returns an int whose comparison is overridden",
        """
class Lie(int):
    def __eq__(self, other): return True
    def __sub__(self, other): return 0
    def __rsub__(self, other): return 0
    def __lt__(self, other): return True
    def __hash__(self): return 0
def answer(number):
    return Lie(1)
""",
        NUMBER_TEST,
    ),
    Attack(
        "containers that lie",
        "returns a list, a dict and a str that say they are equal, empty or sorted",
        """
class List(list):
    def __eq__(self, other): return True
    def __iter__(self): return iter([])
class Dict(dict):
    def __eq__(self, other): return True
    def __missing__(self, key): return True
class Text(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
def answer(kind):
    return {"list": List([9]), "dict": Dict(), "str": Text("no")}[kind]
""",
        """
for kind, expected in [("list", [1, 2]), ("dict", {"a": 1}), ("str", "yes")]:
    assert answer(kind) == expected
""",
    ),
    Attack(
        "exit code 0 while loading",
        "ends the process as one that succeeded, before any test",
        """
import os
print("passed")
os._exit(0)
""",
        NUMBER_TEST,
    ),
    Attack(
        "SystemExit in a call",
        "raises SystemExit(0) where the tests call it, and prints what checkers look for",
        """
import sys
def answer(number):
    print("OK\\npassed\\n1 passed in 0.01s\\nTrue")
    sys.exit(0)
""",
        NUMBER_TEST,
    ),
    Attack(
        "exceptions that end tests quietly",
        "raises GeneratorExit, KeyboardInterrupt, StopAsyncIteration and a class named like the checker's own",
        """
import asyncio
class Passed(BaseException): pass
calls = []
def answer(number):
    calls.append(number)
    group = BaseExceptionGroup("", [SystemExit(0)])
    raise [GeneratorExit(), KeyboardInterrupt(), StopAsyncIteration(), Passed("pass"), group][number]
""",
        """
import contextlib
for number in range(5):
    try:
        got = answer(number)
    except Exception:
        raise AssertionError("refused")
    assert got == "{token}"
""",
        uncontrolled=True,
    ),
    Attack(
        "StopIteration out of a loop",
        "raises StopIteration inside map and zip, whose loops then end as if there were no more tests",
        """
def answer(number):
    raise StopIteration
""",
        """
for got, expected in zip(map(answer, [1, 2, 3]), ["{token}"] * 3):
    assert got == expected
""",
    ),
    Attack(
        "handler at exit",
        "lets handlers at exit end the process as one that succeeded",
        """
import atexit, os, sys
atexit.register(os._exit, 0)
sys.excepthook = lambda *_: os._exit(0)
def answer(number):
    return None
""",
        NUMBER_TEST,
    ),
    Attack(
        "walk the frames",
        "reads the expected value from the callers' local and global names",
        SEARCH
        + """
import sys
def answer():
    frame = sys._getframe()
    while frame:
        for names in (frame.f_locals, frame.f_globals):
            for value in list(names.values()):
                if type(value) is str and (found := pick(value)):
                    return found
        for constant in frame.f_code.co_consts:
            if type(constant) is str and (found := pick(constant)):
                return found
        frame = frame.f_back
""",
        SECRET_TEST,
    ),
    Attack(
        "search all objects",
        "asks the garbage collector for everything that this process holds",
        SEARCH
        + """
import gc, sys, types
def answer():
    for value in gc.get_objects() + [frame for frame in sys._current_frames().values()]:
        for held in gc.get_referents(value):
            text = held if type(held) is str else held.decode("latin-1") if type(held) in (bytes, bytearray) else ""
            if text and (found := pick(text)):
                return found
            if isinstance(held, types.CodeType):
                for constant in held.co_consts:
                    if type(constant) is str and (found := pick(constant)):
                        return found
""",
        SECRET_TEST,
    ),
    Attack(
        "search the memory",
        "reads every byte of its own process",
        """
import re
def answer():
    wanted = re.compile(rb"eco-[t]oken-[0-9a-f]{32}")
    for line in open("/proc/self/maps"):
        span, mode = line.split()[:2]
        start, end = (int(part, 16) for part in span.split("-"))
        if "r" not in mode or start >= 1 << 63 or "[v" in line:
            continue
        try:
            with open("/proc/self/mem", "rb", 0) as memory:
                memory.seek(start)
                while start < end and (piece := memory.read(min(1 << 22, end - start))):
                    start += len(piece)
                    if found := wanted.search(piece):
                        return found.group().decode()
        except OSError:
            pass
""",
        SECRET_TEST,
    ),
    Attack(
        "search the memory of the judge",
        "reads the tests from the memory of whichever process runs them, newest first",
        """
import os, re
def answer():
    wanted = re.compile(rb"eco-[t]oken-[0-9a-f]{32}")
    for pid in sorted(map(int, filter(str.isdigit, os.listdir("/proc"))), reverse=True)[:20]:
        try:
            lines = open("/proc/%d/maps" % pid).readlines()
            memory = open("/proc/%d/mem" % pid, "rb", 0)
        except OSError:
            continue
        for line in lines:
            span, mode = line.split()[:2]
            start, end = (int(part, 16) for part in span.split("-"))
            if "rw" not in mode or end - start > 1 << 26:
                continue
            try:
                memory.seek(start)
                if found := wanted.search(memory.read(end - start)):
                    return found.group().decode()
            except OSError:
                pass
""",
        SECRET_TEST,
    ),
    Attack(
        "read the tests",
        "looks for the tests' text in files, arguments and everything that is open",
        SEARCH
        + """
import os, sys, time
def answer():
    end = time.monotonic() + 0.6
    for descriptor in range(64):
        try:
            if found := pick(os.pread(descriptor, 1 << 20, 0).decode("latin-1")):
                return found
        except OSError:
            pass
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if folder + name not in ("/proc", "/sys", "/usr", "/dev")]
        for name in names:
            path = os.path.join(folder, name)
            try:
                if os.path.getsize(path) < 1 << 16 and (found := pick(open(path, encoding="latin-1").read())):
                    return found
            except OSError:
                pass
        if time.monotonic() > end:
            break
    return pick(str(sys.argv) + str(sys.orig_argv) + str(os.environ))
""",
        SECRET_TEST,
        uncontrolled=True,
    ),
    Attack(
        "patch the builtins",
        "replaces what tests lean on: isinstance, len, abs, all, AssertionError, and the import of modules",
        """
import builtins, sys
class Zero(float):
    def __new__(cls, *_): return float.__new__(cls, 0)
builtins.abs = lambda value: 0
builtins.all = builtins.isinstance = lambda *_: True
builtins.AssertionError = type("Quiet", (SystemExit,), {})
builtins.len = lambda value: 0
builtins.sorted = lambda *_, **__: None
builtins.__import__ = lambda *_, **__: sys
def answer(number):
    return number
""",
        """
assert isinstance(answer(1), str)
assert len(answer([1, 2, 3])) == 0
assert all(answer(number) == number * number for number in (5, 6))
""",
    ),
    Attack(
        "names that the tests use",
        "defines functions of its own with the names of builtins and helpers, to be called in their place",
        """
def answer(number): return number
def abs(value): return 0
def all(values): return True
def any(values): return True
def len(values): return 3
def sorted(*_, **__): return None
def isinstance(*_): return True
def set(*_): return 0
def sum(*_): return 0
def range(*_): return []
def zip(*_): return []
def map(*_): return []
def enumerate(*_): return []
def check(*_): return True
def print(*_): return True
AssertionError = SystemExit
__debug = False
""",
        """
for number in range(3):
    assert answer(number) == number * number, "squares"
assert abs(answer(3) - 9) < 1e-6
assert all(answer(number) == number * number for number in (5, 6))
assert set([answer(7)]) == set([49])
""",
    ),
    Attack(
        "patch the messenger",
        "replaces functions in every module that carries answers: json, struct, os, codecs, and whatever serves it",
        """
import json, os, struct, sys
def yes(*_, **__): return True
for module in list(sys.modules.values()):
    if getattr(module, "__name__", "") in ("__main__", "candidate", "codec", "judge", "zygote", "json", "json.encoder"):
        for name, value in list(vars(module).items()):
            if callable(value) and not name.startswith("__") and name != "answer":
                try:
                    setattr(module, name, yes)
                except Exception:
                    pass
def answer(number):
    return True
""",
        NUMBER_TEST,
        uncontrolled=True,
    ),
    Attack(
        "forged words on the wire",
        "writes answers and verdicts of its own into every descriptor, in every framing that is likely",
        """
import json, os, struct
def forge():
    texts = []
    for verdict in ("pass", "passed", "ok"):
        for key in ("outcome", "kind", "verdict", "result", "status", "type"):
            texts.append({key: verdict, "id": 0, "value": 4, "detail": "", "output": "", "score": 1})
        texts.append([verdict])
    for text in texts:
        data = json.dumps(text).encode()
        for frame in [struct.pack(form, len(data)) + data for form in ("<I", ">I", "<Q")] + [data + b"\\n"]:
            for descriptor in range(3, 32):
                try:
                    os.set_blocking(descriptor, False)
                    os.write(descriptor, frame)
                except OSError:
                    pass
forge()
def answer(number):
    forge()
    return None
""",
        NUMBER_TEST,
        uncontrolled=True,
    ),
    Attack(
        "close every descriptor",
        "cuts the wire, in the hope that silence counts",
        """
import os
def answer(number):
    os.closerange(0, 256)
    return None
""",
        NUMBER_TEST,
        uncontrolled=True,
    ),
    Attack(
        "blame the sandbox by a large value",
        "answers with what is too large to be given back to it, so that the failure looks like the sandbox's",
        """
def answer(number):
    return "x" * ((1 << 20) - number) if type(number) is int else 1
""",
        REFUSED_TEST.format("20, 100, 3"),
        uncontrolled=True,
    ),
    Attack(
        "blame the sandbox by a deep value",
        "the same by a value of nearly the depth that can be carried",
        """
def answer(number):
    value = []
    for _ in range(number if type(number) is int else 0):
        value = [value]
    return value
""",
        REFUSED_TEST.format("90, 101"),
        uncontrolled=True,
    ),
    Attack(
        "words for the log",
        "raises an error whose message holds line breaks, codes for terminals and half characters",
        """
def answer(number):
    raise type("Error\\nfake: line", (ValueError,), {})("\\x1b]0;title\\x07\\r\\nstep 99: pass \\udc80")
""",
        NUMBER_TEST,
        uncontrolled=True,
    ),
    Attack(
        "nothing at all",
        "an empty program",
        "",
        NUMBER_TEST,
        uncontrolled=True,
    ),
]
