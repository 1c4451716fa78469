"""What comes of runs and judgements at the best level of this machine."""

import asyncio
import os
import resource
import signal
import threading
import time

import pytest

from eco.sandbox import Call, Limits, Sandbox
from eco.sandbox.process import Process
from eco.sandbox.zygote import HEADER, STOP

DOUBLE = "def double(x):\n    print('doubling')\n    return x * 2\n"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(limits=Limits(seconds=2.0), workers=1) as made:
        yield made


def only(sandbox, program, function="f", *args):
    (outcome,) = sandbox.run(program, [Call(function, args)])
    return outcome


def test_calls_share_a_process_and_each_has_its_outcome(sandbox):
    program = "seen = []\ndef f(x, *, y=0):\n    seen.append(x)\n    return [*seen, y]\n"
    first, wrong, second = sandbox.run(program, [Call("f", (1,)), Call("f"), Call("f", (2,), {"y": (3, {4})})])
    assert (first.kind, first.value) == ("pass", [1, 0])
    assert wrong.kind == "fail" and wrong.detail.startswith("TypeError")
    assert (second.kind, second.value) == ("pass", [1, 2, (3, {4})])
    assert first.level == sandbox.level


def test_runs_know_nothing_of_each_other(sandbox):
    only(sandbox, "import builtins\nbuiltins.left = 1\nopen('/tmp/left', 'w').close()\ndef f(): pass")
    found = only(sandbox, "import builtins, os\ndef f(): return hasattr(builtins, 'left'), os.path.exists('/tmp/left')")
    assert found.value == (False, False)


@pytest.mark.parametrize(
    ("program", "kind", "detail"),
    [
        ("def f(:", "fail", "SyntaxError"),
        ("raise KeyError('k')", "fail", "KeyError"),
        ("import sys\nsys.exit(0)", "fail", "SystemExit"),
        ("def g(): pass", "fail", "NameError"),
        ("def f(): return object()", "fail", "object"),
        ("def f(): return (x for x in 'ab')", "fail", "generator"),
        ("def f(): return f()", "fail", "RecursionError"),
        ("f = 3", "fail", "TypeError"),
        ("import os\nos._exit(0)", "crash", "status 0"),
        ("import ctypes\ndef f(): ctypes.string_at(0)", "crash", "SIGSEGV"),
        ("def f():\n    x = []\n    while True: x.append(bytes(10**7))", "memory", "MemoryError"),
        ("def f(): return 'x' * 10**6", "pass", ""),
        ("def f(): return [1] * 10**7", "fail", "larger"),
        ("import os\ndef f(): os.write(3, b'\\xff' * 100)", "tamper", "messages"),
        ("import os\ndef f(): os.write(3, b'\\2\\0\\0\\0[]')", "tamper", "message"),
        ("import os\nos.close(3)\nwhile True: pass", "tamper", "closed the channel"),
        ("x" * (1 << 21), "fail", "too long"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_outcomes(sandbox, program, kind, detail):
    outcome = only(sandbox, program)
    assert outcome.kind == kind, outcome
    assert detail in outcome.detail
    assert only(sandbox, DOUBLE, "double", 2).value == 4  # the next run is not harmed


def test_an_endless_program_is_a_timeout_for_all_that_was_asked():
    with Sandbox(limits=Limits(seconds=0.3), workers=1) as sandbox:
        program = "def quick(): return 1\ndef f():\n    while True: pass"
        first, second, third = sandbox.run(program, [Call("quick"), Call("f"), Call("quick")])
        assert [first.kind, second.kind, third.kind] == ["pass", "timeout", "timeout"]
        assert 0.3 <= second.seconds < 2.0
        assert sandbox.judge(program, "f()").kind == "timeout"
        assert sandbox.judge(program, "quick()\nwhile True: pass").kind == "timeout"
        assert sandbox.judge(program, "assert quick() == 1").kind == "pass"


def test_the_answers_of_a_run_have_a_common_limit(sandbox):
    program = "def f(size): return 'x' * size"
    outcomes = sandbox.run(program, [Call("f", (size,)) for size in (10**6, 10**6, 10**6, 10**6, 10**6, 1)])
    assert [outcome.kind for outcome in outcomes] == ["pass"] * 4 + ["memory"] * 2
    assert outcomes[4].detail == outcomes[5].detail == "the answers take more than 4 MB together"
    assert only(sandbox, program, "f", 10**6).kind == "pass"  # the next run has its own


def test_processor_time_is_limited_on_its_own():
    with Sandbox(limits=Limits(seconds=20.0, cpu_seconds=1), workers=1) as sandbox:
        outcome = only(sandbox, "def f():\n    while True: pass")
        assert outcome.kind == "timeout" and "processor" in outcome.detail
        assert outcome.seconds < 10


def test_output_is_kept_up_to_a_limit():
    with Sandbox(limits=Limits(output_kb=1), workers=1) as sandbox:
        assert only(sandbox, DOUBLE, "double", 1).output == "doubling\n"
        flood = only(
            sandbox, "import sys\ndef f():\n    print('x' * 10**7)\n    print('y', file=sys.stderr)\n    return 5"
        )
        assert flood.value == 5 and flood.output == "x" * 1024
        dying = only(sandbox, "import os\ndef f():\n    os.write(1, b'last words')\n    os.abort()")
        assert (dying.kind, dying.output) == ("crash", "last words")


def test_what_a_stopped_run_still_prints_does_not_count_for_the_next():
    deaf = "import os\nos.write(3, b'\\1\\0\\0\\0x')\nwhile True: os.write(1, b'x')"
    with Sandbox(limits=Limits(seconds=2.0, output_kb=2048), workers=1) as sandbox:
        # As long as what fits between host and program: the word to stop waits behind it.
        assert only(sandbox, deaf, "f", "x" * 270_000).kind == "tamper"
        following = only(sandbox, "def f(x): return len(x)", "f", "x" * 1_000_000)
        assert following.value == 1_000_000, following
    with pytest.raises(ValueError, match="output_kb"):
        Limits(output_kb=2049)


def test_tests_run_outside_the_program(sandbox):
    assert sandbox.judge(DOUBLE, "assert double(2) == 4").kind == "pass"
    wrong = sandbox.judge(DOUBLE, "x = 5\nassert double(2) == x")
    assert wrong.kind == "fail" and "line 2" in wrong.detail
    assert sandbox.judge(DOUBLE, "def check(f):\n    assert f('a') == 'aa'\ncheck(double)").kind == "pass"
    assert sandbox.judge("raise SystemExit(0)", "pass").kind == "fail"
    assert sandbox.judge("", "").kind == "fail"
    assert sandbox.judge(DOUBLE, "double(").kind == "infrastructure"
    equal = "class Equal:\n    def __eq__(self, other): return True\ndef double(x): return Equal()"
    assert sandbox.judge(equal, "assert double(2) == 4").kind != "pass"


def test_the_program_dying_in_a_test_is_its_own_fault(sandbox):
    assert sandbox.judge("import os\ndef f(): os._exit(0)", "f()").kind == "crash"
    assert sandbox.judge("import os\ndef f(): os.write(3, b'junk' * 9)", "f()").kind == "tamper"


def test_many_jobs_come_back_in_order():
    with Sandbox(limits=Limits(seconds=5.0), workers=2) as sandbox:
        jobs = [(f"def f(): return {i}", [Call("f"), Call("f")]) for i in range(20)]
        assert [[o.value for o in outcomes] for outcomes in sandbox.run_many(jobs)] == [[i, i] for i in range(20)]
        verdicts = sandbox.judge_many([(f"def f(): return {i % 2}", "assert f() == 0") for i in range(10)])
        assert [verdict.kind for verdict in verdicts] == ["pass", "fail"] * 5

        async def both():
            return await asyncio.gather(
                *(sandbox.arun(DOUBLE, [Call("double", (i,))]) for i in range(5)),
                sandbox.ajudge(DOUBLE, "assert double(1) == 2"),
            )

        *runs, verdict = asyncio.run(both())
        assert [outcome.value for (outcome,) in runs] == [0, 2, 4, 6, 8]
        assert verdict.kind == "pass"


def test_threads_may_share_a_sandbox(sandbox):
    values = {}

    def work(i):
        values[i] = only(sandbox, DOUBLE, "double", i).value

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == {i: 2 * i for i in range(8)}


def test_what_cannot_be_sent_is_an_error_of_the_caller(sandbox):
    with pytest.raises(ValueError, match="an argument of double cannot be sent"):
        only(sandbox, DOUBLE, "double", object())
    assert only(sandbox, DOUBLE, "double", 1).value == 2


def test_a_closed_sandbox_says_so():
    sandbox = Sandbox(workers=1)
    sandbox.close()
    with pytest.raises(ValueError, match="closed"):
        sandbox.run(DOUBLE, [Call("double", (1,))])


def test_an_empty_message_is_tampering_not_a_run_that_nobody_could_judge(sandbox):
    silent = "import os, time\ndef f():\n    os.write(3, bytes(4))\n    time.sleep(1)\n"
    assert sandbox.judge(silent, "assert f() == 1").kind == "tamper"
    assert only(sandbox, silent).kind == "tamper"


def test_a_host_with_many_open_files():
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with Sandbox(workers=1) as sandbox:
            assert sandbox.judge(DOUBLE, "assert double(2) == 4").kind == "pass"
    finally:
        for descriptor in taken:
            os.close(descriptor)


def test_a_host_without_descriptors_is_no_fault_of_the_program():
    with Sandbox(workers=1) as sandbox:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 2, most[1]))
        try:
            outcome = only(sandbox, DOUBLE, "double", 1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
        assert outcome.kind == "infrastructure" and "cannot be started" in outcome.detail
        assert only(sandbox, DOUBLE, "double", 1).value == 2


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.5])
def test_closing_ends_what_runs_for_other_threads(delay):
    sandbox = Sandbox(limits=Limits(seconds=9.0), workers=2)
    outcomes = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(sandbox.judge("def f():\n    while True: pass", "f()")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    time.sleep(delay)
    sandbox.close()
    for thread in threads:
        thread.join(8)
    assert [outcome.kind for outcome in outcomes] == ["infrastructure"] * 4
    assert "close" in outcomes[-1].detail or "ended" in outcomes[-1].detail


def test_an_interrupted_run_does_not_spoil_the_next(sandbox, monkeypatch):
    class Interrupted(BaseException):
        pass

    def interrupted(self):
        self._write(HEADER.pack(STOP, 0))
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(Process, "stop", interrupted)
        with pytest.raises(Interrupted):
            only(sandbox, DOUBLE, "double", 1)
    assert only(sandbox, DOUBLE, "double", 1).value == 2


def test_a_host_that_ignores_the_end_of_its_children():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with Sandbox(workers=1) as sandbox:
            assert only(sandbox, "import os\ndef f(): os._exit(3)").kind == "crash"
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_program_may_have_a_pool_of_threads(sandbox):
    program = (
        "import time\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "def f():\n    with ThreadPoolExecutor(20) as pool: return sum(pool.map(work, range(100)))\n"
        "def work(i):\n    time.sleep(0.01)\n    return i\n"
    )
    assert only(sandbox, program).value == 4950


def refusals(sandbox):
    job = ("def f(): return 1", [Call("f")])
    uses = [
        lambda: sandbox.run(*job),
        lambda: sandbox.judge("def f(): return 1", "f()"),
        lambda: sandbox.run_many([job]),
        lambda: sandbox.judge_many([("def f(): return 1", "f()")]),
        lambda: asyncio.run(sandbox.arun(*job)),
        lambda: asyncio.run(sandbox.ajudge("def f(): return 1", "f()")),
    ]
    for use in uses:
        try:
            use()
        except ValueError as error:
            yield str(error)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_of_the_host_is_refused_and_does_not_disturb_it():
    with Sandbox(workers=1) as sandbox:
        assert only(sandbox, DOUBLE, "double", 2).value == 4
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            refused = 0
            try:
                refused = sum("belongs to the process that made it" in words for words in refusals(sandbox))
                sandbox.close()
            finally:
                os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
        assert only(sandbox, DOUBLE, "double", 3).value == 6
    assert sum("closed" in words for words in refusals(sandbox)) == 6
