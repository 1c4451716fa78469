"""How the zygote of each level is started: the command, the settings it gets, and what it is allowed to see."""

import importlib.util
import json
import os
import secrets
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eco.sandbox.limits import Limits
from eco.sandbox.process import Process

Level = Literal["full", "no-userns", "weak", "docker"]
Role = Literal["candidate", "judge"]

FOLDER = Path(__file__).resolve().parent
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "PYTHONMALLOC": "pymalloc", "MALLOC_ARENA_MAX": "1"}
"""All that a zygote's environment holds: the order of a set is the same in every run, and threads do not each reserve
128 MB of the address space."""

_FLAGS = ["-s", "-P", "-S", "-B"]
"""Like -I, but PYTHONHASHSEED is read; there is no other variable to ignore."""

IMAGE = "python:3.11-slim"
_ZYGOTE_MB, _ZYGOTE_PIDS = 128, 8  # what a container needs beside a run

_USERS = 1 << 30  # numbers that no system gives to anybody
_ROOTS_RIGHTS = 1 << 6 | 1 << 7 | 1 << 21  # CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN

_ALWAYS = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/nix/store"]
_DEVICES = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"]


@dataclass(frozen=True)
class Launch:
    """command: the arguments of the process to start. farewell: what must be run when it is ended, or nothing."""

    command: list[str]
    environment: Mapping[str, str]
    farewell: list[str]


def launch(level: Level, role: Role, limits: Limits) -> Launch:
    """How to start a zygote."""
    settings: dict[str, Any] = {"level": level, "role": role, "own_root": False, "user": None, **limits.model_dump()}
    if level == "docker":
        return _docker(settings, limits)
    binds, links = _visible()
    masked = _masked(binds)
    added = _lend(settings, limits.packages)
    settings["readable"] = [*(_without(binds, masked) if level == "no-userns" else binds), *added]
    late = [str(FOLDER), *added]  # these may lie in what is masked
    bubblewrap = shutil.which("bwrap") if level == "full" else None
    if level == "full" and _is_root():
        settings["user"] = _USERS + secrets.randbelow(_USERS)
    if level == "full" and bubblewrap is None:
        settings |= {"own_root": True, "links": links, "masked": masked, "binds": binds, "late": [*late, *_DEVICES]}
    python = [_interpreter(), *_FLAGS, str(FOLDER / "zygote.py"), json.dumps(settings)]
    walls = _bubblewrap(bubblewrap, settings["user"], binds, links, masked, late) if bubblewrap else []
    return Launch(walls + python, ENVIRONMENT, [])


def start(level: Level, role: Role, limits: Limits) -> Process:
    """A running zygote.

    Raises:
        Broken: the walls of the level do not stand.
    """
    how = launch(level, role, limits)
    return Process(how.command, how.environment, how.farewell, orphans=level == "weak")


def package_files(packages: Sequence[str]) -> dict[str, str]:
    """Name -> the file that Python loads for an installed package.

    Raises:
        ValueError: one is not installed.
    """
    files = {}
    for name in packages:
        found = importlib.util.find_spec(name) if name.isidentifier() else None
        if found is None or found.origin is None or not os.path.exists(found.origin):
            raise ValueError(f"the sandbox cannot lend the package {name!r}: it is not installed, or no package")
        files[name] = os.path.realpath(found.origin)
    return files


def _lend(settings: dict[str, Any], packages: Sequence[str]) -> list[str]:
    """Tells the zygote of the packages, and gives the folders and files that it must see."""
    settings["packages"] = files = package_files(packages)
    return [os.path.dirname(path) if path.endswith("/__init__.py") else path for path in files.values()]


def _interpreter() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _visible() -> tuple[list[str], dict[str, str]]:
    """What Python needs to run, and the symbolic links (path -> target) that lead there."""
    wanted = [*_ALWAYS, _interpreter(), os.path.realpath(os.path.join(sys.base_prefix, "lib"))]
    links = {path: os.readlink(path) for path in wanted if os.path.islink(path)}
    paths = sorted({path for path in wanted if os.path.exists(path) and path not in links})
    return [path for path in paths if not any(path.startswith(other + "/") for other in paths)], links


def _masked(binds: list[str]) -> list[str]:
    """Folders of installed packages that a program must not see."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = {
        sysconfig.get_path(kind, vars={"base": sys.base_prefix, "platbase": sys.base_prefix})
        for kind in ("purelib", "platlib")
    }
    for prefix in ("/usr", "/usr/local", sys.base_prefix):
        folders |= {f"{prefix}/lib/{version}/{name}" for name in ("site-packages", "dist-packages")}
        folders.add(f"{prefix}/lib/python3/dist-packages")
    real = {os.path.realpath(folder) for folder in folders if os.path.isdir(folder)}
    return sorted(folder for folder in real if any(folder.startswith(bind + "/") for bind in binds))


def _without(binds: list[str], masked: list[str]) -> list[str]:
    """The binds as paths of which none holds a masked folder, as Landlock can only add permissions."""
    result: list[str] = []
    for path in binds:
        if path in masked:
            continue
        if any(folder.startswith(path + "/") for folder in masked):
            result += _without([entry.path for entry in os.scandir(path) if not entry.is_symlink()], masked)
        else:
            result.append(path)
    return result


def _is_root() -> bool:
    """Whether this is the machine's own root with the right to mount and to change its user: the kernel does not limit
    root's threads, so the zygote must become somebody else. Root of a user namespace is somebody else already."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    everyone = Path("/proc/self/uid_map").read_text().split() == ["0", "0", str(2**32 - 1)]
    return os.geteuid() == 0 and everyone and _ROOTS_RIGHTS & ~int(status["CapEff"], 16) == 0


def _bubblewrap(
    program: str, user: int | None, binds: list[str], links: dict[str, str], masked: list[str], late: list[str]
) -> list[str]:
    arguments = [program, "--clearenv", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL"]
    if user is None:
        arguments += ["--unshare-all", "--uid", "65534", "--gid", "65534"]
    else:
        arguments += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        arguments += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    arguments += ["--proc", "/proc", "--tmpfs", "/tmp", "--dir", "/empty", "--chdir", "/"]
    for name, value in ENVIRONMENT.items():
        arguments += ["--setenv", name, value]
    parents = {str(parent) for path in [*binds, *late, *_DEVICES] for parent in Path(path).parents}
    for path in sorted(parents - {"/"}):  # else they are for their owner only
        arguments += ["--perms", "0755", "--dir", path]
    for path in binds:
        arguments += ["--ro-bind", path, path]
    for path, target in links.items():
        arguments += ["--symlink", target, path]
    for path in masked:
        arguments += ["--tmpfs", path]
    for path in late:
        arguments += ["--ro-bind", path, path]
    for path in _DEVICES:
        arguments += ["--dev-bind", path, path]
    return [*arguments, "--remount-ro", "/"]


def _docker(settings: dict[str, Any], limits: Limits) -> Launch:
    """A container that lives as long as its zygote. Nothing in it can be written: runs could leave each other files."""
    name = f"eco-sandbox-{secrets.token_hex(8)}"
    memory = f"{limits.memory_mb + _ZYGOTE_MB}m"
    added = _lend(settings, limits.packages)
    settings["readable"] = ["/usr", "/lib", "/etc/ld.so.cache", *added]
    walls = ["--network", "none", "--ipc", "none", "--read-only", "--cap-drop", "ALL", "--user", "65534:65534"]
    walls += ["--security-opt", "no-new-privileges", "--memory", memory, "--memory-swap", memory]
    walls += ["--pids-limit", str(limits.threads + _ZYGOTE_PIDS), "--volume", f"{FOLDER}:/sandbox:ro"]
    for path in added:
        walls += ["--volume", f"{path}:{path}:ro"]
    for variable, value in ENVIRONMENT.items():
        walls += ["--env", f"{variable}={value}"]
    python = ["python", *_FLAGS, "/sandbox/zygote.py", json.dumps(settings)]
    command = ["docker", "run", "--rm", "--interactive", "--name", name, *walls, IMAGE, *python]
    return Launch(command, os.environ, ["docker", "kill", name])
