"""How each level is built, what it refuses, and what is said where it cannot be had."""

import json
import os
import shutil
import struct
import subprocess
import sys
import textwrap

import pytest

from eco.sandbox import Call, Limits, Sandbox, landlock, launch, levels, seccomp

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux's walls")
PROBE = """
import os, socket, threading
def attempt(what):
    try:
        return what()
    except OSError as error:
        return error.errno
def f(path):
    return {
        "socket": attempt(socket.socket),
        "fork": attempt(os.fork),
        "read": attempt(lambda: open(path).read()),
        "write": attempt(lambda: open(path, "a").write("x")),
        "list": attempt(lambda: os.listdir(os.path.dirname(path))),
        "chmod": attempt(lambda: os.chmod(path, 0o777)),
        "kill": attempt(lambda: os.kill(os.getppid() or -1, 0)),
        "tmp": attempt(lambda: open("/tmp/eco-probe", "w").write("yes")),
        "packages": attempt(lambda: [name for name in os.listdir(os.path.dirname(os.__file__) + "/site-packages")]),
        "environment": dict(os.environ),
        "descriptors": [fd for fd in range(64) if attempt(lambda: os.fstat(fd).st_mode) != 9],
        "null": attempt(lambda: open("/dev/null", "w").write("x")),
    }
"""
ABOVE_TMP = pytest.mark.skipif(sys.prefix.startswith("/tmp/"), reason="what lies below /tmp cannot be lent at full")


THREADS = """
import threading, time
def f():
    threading.stack_size(1 << 16)
    for number in range(200):
        try:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        except RuntimeError:
            return number
"""


@pytest.fixture(autouse=True)
def try_levels_again():
    levels.missing.cache_clear()
    yield
    levels.missing.cache_clear()


def need(level):
    """Skips where the kernel does not have what the level needs, as other programs than ours say."""
    if level == "full" and subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    if landlock.version() == 0:
        pytest.skip("no Landlock here")
    assert levels.missing(level) is None


def probe(sandbox, path):
    (outcome,) = sandbox.run(PROBE, [Call("f", (str(path),))])
    assert outcome.kind == "pass", outcome
    return outcome.value


def refused(value):
    return isinstance(value, int) and value in (1, 2, 13, 20)  # EPERM, ENOENT, EACCES, ENOTDIR


def check_walls(found, tmp_written):
    inside = (
        found.pop("environment"),
        found.pop("descriptors"),
        found.pop("null"),
        found.pop("tmp"),
        found.pop("packages"),
    )
    assert all(refused(value) for value in found.values()), found
    environment, descriptors, null, tmp, packages = inside
    assert set(environment) <= {*launch.ENVIRONMENT, "PWD", "LC_CTYPE"}
    assert (descriptors, null) == ([0, 1, 2, 3], 1)
    assert tmp == 3 if tmp_written else refused(tmp)
    assert packages == [] or refused(packages)


@LINUX
@ABOVE_TMP
@pytest.mark.parametrize("bubblewrap", [True, False])
def test_full(bubblewrap, tmp_path, monkeypatch):
    if not bubblewrap:
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif not shutil.which("bwrap"):
        pytest.skip("no bubblewrap here")
    need("full")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with Sandbox("full", workers=1) as sandbox:
        check_walls(probe(sandbox, secret), tmp_written=True)
        (outcome,) = sandbox.run("import os\ndef f(): return os.getpid(), os.getuid(), os.listdir('/tmp')", [Call("f")])
        assert outcome.value == (1, 65534, [])
        (outcome,) = sandbox.run("import os\ndef f(): return os.listdir('/proc')", [Call("f")])
        assert outcome.kind == "fail"
        (outcome,) = sandbox.run(THREADS, [Call("f")])
        assert outcome.value == Limits().threads - 1
    assert secret.read_text() == "secret" and not os.path.exists("/tmp/eco-probe")


IMPORTS = """
def f():
    import annotated_types
    try:
        import pydantic
    except (ImportError, PermissionError):
        return 1
"""


def import_both(sandbox):
    (outcome,) = sandbox.run(IMPORTS, [Call("f")])
    return outcome


@LINUX
@ABOVE_TMP
@pytest.mark.parametrize("level", ["full", "no-userns", "without bubblewrap"])
def test_packages_are_lent_by_name(level, monkeypatch):
    if level == "without bubblewrap":
        monkeypatch.setattr(shutil, "which", lambda name: None)
        level = "full"
    need(level)
    with Sandbox(level, Limits(packages=("annotated_types",)), workers=1) as sandbox:
        assert import_both(sandbox).value == 1
    with Sandbox(level, workers=1) as sandbox:
        assert "annotated_types" in import_both(sandbox).detail
    for name in ("no_such_package", "a/b", "sys"):
        with pytest.raises(ValueError, match="cannot lend"):
            Sandbox(level, Limits(packages=(name,)))


@LINUX
def test_without_user_namespaces(tmp_path):
    need("no-userns")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with Sandbox("no-userns", workers=1) as sandbox:
        check_walls(probe(sandbox, secret), tmp_written=False)
        assert sandbox.run("import xml.dom.minidom\ndef f(): return 1", [Call("f")])[0].value == 1
    assert secret.read_text() == "secret" and secret.stat().st_mode & 0o777 != 0o777


def test_weak_only_limits_resources():
    with Sandbox("weak", Limits(memory_mb=256, file_mb=1), workers=1) as sandbox:
        assert sandbox.level == "weak"
        assert sandbox.judge("def f(): return 1", "assert f() == 1").kind == "pass"
        kinds = [
            sandbox.run(f"def f(): {body}", [Call("f")])[0].kind
            for body in ("return bytes(10**9)", "return [open('/dev/null') for _ in range(100)]")
        ]
        assert kinds == (["memory", "fail"] if sys.platform == "linux" else [kinds[0], "fail"])


MACOS = """
import ctypes, resource, runpy, sys
sys.platform = "darwin"
class Library:  # none of Linux's functions
    def __init__(self, name, use_errno): pass
ctypes.PyDLL = Library
def setrlimit(which, limits, really=resource.setrlimit):
    if which == resource.RLIMIT_AS:
        raise ValueError("current limit exceeds maximum limit")
    really(which, limits)
resource.setrlimit = setrlimit
runpy.run_path({zygote!r}, run_name="__main__")
"""


def test_weak_works_where_there_are_no_calls_of_linux_and_no_limit_of_address_space(monkeypatch, tmp_path):
    zygote = str(launch.FOLDER / "zygote.py")
    (tmp_path / "macos.py").write_text(MACOS.format(zygote=zygote))

    def elsewhere(*arguments, really=launch.launch):
        how = really(*arguments)
        how.command[how.command.index(zygote)] = str(tmp_path / "macos.py")
        return how

    monkeypatch.setattr(launch, "launch", elsewhere)
    with Sandbox("weak", workers=1) as sandbox:
        assert sandbox.judge("def f(): return 1", "assert f() == 1").kind == "pass"


def test_windows_can_import_what_says_that_it_cannot_fork():
    program = """
import asyncio, concurrent.futures, ctypes, os, platform, subprocess, sys, tempfile
import eco.config, eco.machine
del os.register_at_fork
class Library:
    def __init__(self, name, use_errno):
        "/" in name  # as the real one looks
ctypes.PyDLL = Library
sys.platform = "win32"
platform.system = lambda: "Windows"
sys.modules |= {"fcntl": None, "resource": None}
from eco.sandbox.levels import missing
print(missing("full"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "WSL" in done.stdout, done.stderr


def test_the_best_level_is_never_one_that_only_limits(monkeypatch):
    reasons = {"full": "no namespaces", "no-userns": "no Landlock"}
    monkeypatch.setattr(levels, "missing", reasons.get)
    with pytest.raises(ValueError, match=r"full: no namespaces; no-userns: no Landlock .*`docker`.*`weak`.* by name"):
        levels.choose(None)
    assert levels.choose("weak") == "weak"
    del reasons["no-userns"]
    assert levels.choose(None) == "no-userns"
    with pytest.raises(ValueError, match=r"full: no namespaces$"):
        levels.choose("full")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"no level 'strong'.*full, no-userns, docker, weak"):
        levels.choose("strong")


def test_what_is_missing_is_said_with_its_remedy(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert "docker" in levels.missing("full") and "weak" in levels.missing("no-userns")
    monkeypatch.setattr("platform.system", lambda: "Windows")
    assert "WSL" in levels.missing("weak")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    levels.missing.cache_clear()
    assert "riscv64" in levels.missing("full")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(landlock, "version", lambda: 0)
    levels.missing.cache_clear()
    assert "5.13" in levels.missing("no-userns")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "install Docker" in levels.missing("docker")


@LINUX
def test_a_wall_that_does_not_stand_closes_the_level(monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: no permission' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ValueError, match=r"bwrap: no permission.*max_user_namespaces"):
        Sandbox("full")


DOCKER = """\
#!{python}
import json, os, subprocess, sys
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "run":
    at = sys.argv.index("python:3.11-slim")
    mount = sys.argv[sys.argv.index("--volume") + 1].removesuffix(":/sandbox:ro")
    variables = dict(sys.argv[i + 1].split("=") for i, word in enumerate(sys.argv) if word == "--env")
    command = [{python!r}, *sys.argv[at + 2 :]]
    settings = json.loads(command[-1])
    command[-1] = json.dumps(settings | {{"readable": [*settings["readable"], *{readable!r}]}})
    os.execve(command[0], [word.replace("/sandbox/", mount + "/") for word in command], variables)
"""


@LINUX
def test_docker_with_a_stand_in_for_it(tmp_path, monkeypatch):
    log = tmp_path / "log"
    docker = tmp_path / "docker"
    python = os.path.realpath(sys.executable)
    docker.write_text(DOCKER.format(python=python, log=str(log), readable=[os.path.dirname(os.__file__)]))
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with Sandbox("docker", Limits(memory_mb=256, threads=8), workers=1) as sandbox:
        assert sandbox.run("def f(): return 7", [Call("f")])[0].value == 7
        assert sandbox.run("open('/tmp/x', 'w')", [Call("f")])[0].kind == "fail"
        assert sandbox.judge("def f(): return 7", "assert f() == 7").kind == "pass"
    commands = [json.loads(line) for line in log.read_text().splitlines()]
    started = [arguments for arguments in commands if arguments[0] == "run"]
    words = " ".join(started[-1])  # the first was only to see whether there is such a level
    for wall in (
        "run --rm --interactive --name eco-sandbox-", "--network none", "--ipc none", "--read-only", "--cap-drop ALL",
        "--user 65534:65534", "--security-opt no-new-privileges", "--memory 384m --memory-swap 384m", "--pids-limit 16",
        ":/sandbox:ro", "python:3.11-slim python ",
    ):  # fmt: skip
        assert wall in words, wall
    names = [arguments[arguments.index("--name") + 1] for arguments in started]
    assert sorted(names) == sorted(arguments[1] for arguments in commands if arguments[0] == "kill")
    assert len(set(names)) == 3


def test_the_zygote_imports_nothing_heavy():
    code = f"""
        import sys
        sys.path.insert(0, {str(launch.FOLDER)!r})
        import zygote
        for role in ("candidate", "judge"):
            zygote._load({str(launch.FOLDER)!r}, role)
        loaded = {{name.split(".")[0] for name in sys.modules}} - sys.stdlib_module_names
        print(sorted(loaded), "eco.config" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['__main__', 'eco', 'zygote'] False\n"


def answer(program, number, arguments=(0, 0, 0), architecture=seccomp._ARCHITECTURE["x86_64"]):
    """What the kernel would do: an interpreter of the few BPF instructions, after the kernel's documentation."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *(0,) * (6 - len(arguments)))
    at, accumulator = 0, 0
    while True:
        code, true, false, value = struct.unpack_from("HBBI", program, 8 * at)
        at += 1
        if code == 0x06:
            return value
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += true if holds else false


ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


@pytest.fixture(params=["x86_64", "aarch64"])
def filtered(request, monkeypatch):
    monkeypatch.setattr(seccomp, "MACHINE", request.param)
    seccomp.program.cache_clear()
    words = seccomp._ALLOWED[request.param].split()
    numbers = dict(zip(words[::2], map(int, words[1::2]), strict=True)) | seccomp._SPECIAL[request.param]
    yield request.param, numbers, seccomp._ARCHITECTURE[request.param]
    seccomp.program.cache_clear()


def test_the_filter_refuses_all_that_is_not_listed(filtered):
    machine, numbers, architecture = filtered
    strict, loose = seccomp.program(7, changes=False), seccomp.program(7, changes=True)
    by_number = {number: name for name, number in numbers.items() if name not in seccomp._SPECIAL[machine]}
    assert len(by_number) == len(numbers) - len(seccomp._SPECIAL[machine])
    for number in [*range(600), 0x40000000, 0x40000001, 0xFFFFFFFF]:
        if number in seccomp._SPECIAL[machine].values():
            continue
        name = by_number.get(number)
        expected = ALLOW if name else ENOSYS if number >= 463 else EPERM
        assert answer(loose, number, architecture=architecture) == expected, number
        expected = EPERM if name in seccomp._CHANGING else expected
        assert answer(strict, number, architecture=architecture) == expected, number
        assert answer(loose, number, architecture=0x40000003) == KILL  # 32-bit x86 has other numbers


def test_the_filter_looks_at_arguments(filtered):
    _, numbers, architecture = filtered
    program = seccomp.program(7, changes=True)

    def asked(name, *arguments):
        return answer(program, numbers[name], arguments, architecture)

    thread = 0x003D0F00  # what the C library asks for when it makes a thread
    assert asked("clone", thread) == ALLOW
    assert {asked("clone", flags) for flags in (17, 0x4111, thread | 0x10000000, thread | 0x80, 0x7C020011)} == {EPERM}
    assert asked("clone3") == ENOSYS
    for name in ("kill", "tgkill"):
        assert asked(name, 7) == ALLOW
        assert {asked(name, pid) for pid in (0, 1, 8, 2**32 - 1, 2**64 - 7)} == {EPERM}
    assert [asked("prlimit64", pid) for pid in (0, 7, 1)] == [ALLOW, ALLOW, EPERM]
    assert [asked("ioctl", 0, request) for request in (0x5401, 0x5412)] == [ALLOW, EPERM]  # TCGETS, TIOCSTI
    assert [asked("fcntl", 0, command) for command in (0, 4, 8, 1030, 1033)] == [ALLOW, ALLOW, EPERM, ALLOW, EPERM]
    assert [asked("socketpair", family, 0x80801) for family in (1, 2, 16)] == [ALLOW, EPERM, EPERM]
    assert {asked("socketpair", 1, kind) for kind in (2, 5, 0x80802)} == {EPERM}  # datagrams know addresses
    assert [asked("prctl", option) for option in (15, 4, 38)] == [ALLOW, EPERM, EPERM]


def test_the_filter_has_the_machine_s_own_numbers():
    header = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}
    path = header.get(seccomp.MACHINE)
    if path is None or not os.path.exists(path):
        pytest.skip("no kernel headers here")
    with open(path) as stream:
        defined = dict(
            line.split()[1:3] for line in stream if line.startswith("#define __NR_") and len(line.split()) == 3
        )
    words = seccomp._ALLOWED[seccomp.MACHINE].split()
    for name, number in [*zip(words[::2], words[1::2], strict=True), *seccomp._SPECIAL[seccomp.MACHINE].items()]:
        assert defined[f"__NR_{name}"] == str(number), name
