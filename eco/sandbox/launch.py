"""How the zygote of each level is started: the command, the settings it gets, and what it is allowed to see."""

import json
import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Literal

from eco.sandbox import landlock
from eco.sandbox.limits import Limits
from eco.sandbox.process import Process

Level = Literal["full", "no-userns", "weak", "docker"]
Role = Literal["candidate", "judge"]

FOLDER = Path(__file__).resolve().parent
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "PYTHONMALLOC": "pymalloc"}
"""All that a zygote's environment holds: the order of a set is the same in every run."""

_FLAGS = ["-s", "-P", "-S", "-B"]
"""Like -I, but PYTHONHASHSEED is read; there is no other variable to ignore."""

_ALWAYS = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/nix/store"]
_DEVICES = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"]


def command(level: Level, role: Role, limits: Limits) -> list[str]:
    """The arguments of the process to start.

    Raises:
        ValueError: the level cannot be had on this kind of machine.
    """
    bubblewrap = shutil.which("bwrap") if level == "full" else None
    binds, links = _visible()
    masked = _masked(binds)
    settings = {
        "level": level,
        "role": role,
        "landlock": landlock.version() if platform.system() == "Linux" else 0,
        "own_root": level == "full" and bubblewrap is None,
        "binds": [*binds, str(FOLDER), *_DEVICES],
        "links": links,
        "masked": masked,
        "readable": binds if level == "full" else _without(binds, masked),
        **limits.model_dump(),
    }
    python = [_interpreter(), *_FLAGS, str(FOLDER / "zygote.py"), json.dumps(settings)]
    return _bubblewrap(bubblewrap, binds, links, masked) + python if bubblewrap else python


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


def _bubblewrap(program: str, binds: list[str], links: dict[str, str], masked: list[str]) -> list[str]:
    arguments = [program, "--unshare-all", "--clearenv", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL"]
    arguments += [
        "--uid",
        "65534",
        "--gid",
        "65534",
        "--proc",
        "/proc",
        "--tmpfs",
        "/tmp",
        "--dir",
        "/empty",
        "--chdir",
        "/",
    ]
    for name, value in ENVIRONMENT.items():
        arguments += ["--setenv", name, value]
    for path in [*binds, str(FOLDER)]:
        arguments += ["--ro-bind", path, path]
    for path, target in links.items():
        arguments += ["--symlink", target, path]
    for path in masked:
        arguments += ["--tmpfs", path]
    for path in _DEVICES:
        arguments += ["--dev-bind", path, path]
    return [*arguments, "--remount-ro", "/"]


def start(level: Level, role: Role, limits: Limits) -> Process:
    """A running zygote.

    Raises:
        Broken: the walls of the level do not stand.
    """
    return Process(command(level, role, limits), ENVIRONMENT)
