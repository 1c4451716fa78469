"""Compiles the C++ kernels into one shared library, once per source, compiler and processor."""

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from eco.machine import cache_folder, compiler

_ROOM = Path(__file__).parents[1]
_FLAGS = [
    *("-std=c++17", "-O3", "-march=native", "-mprefer-vector-width=512", "-fopenmp", "-fPIC", "-shared"),
    # Not -ffast-math: a NaN must stay one, and sums have a fixed order.
    *("-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing", f"-I{Path(__file__).parent}"),
]
_TIMEOUT_S = 600
"""Of the compiler: half a minute of an idle core, minutes on a busy machine."""
_CHECK = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).eco_check())"


class Unavailable(Exception):
    """Why there is no library."""


def build() -> Path:
    """The library's path, `$ECO_CACHE/kernels/DIGEST.so`, compiled if it is not there yet.

    Two processes may build at once: each writes a file of its own and renames it.

    Raises:
        Unavailable: no suitable compiler, an error of it, a library that fails its check, or no place to write.
    """
    program = compiler()
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise Unavailable(f"they are written for Linux on x86-64, not {platform.system()} on {platform.machine()}")
    if program is None:
        raise Unavailable("no C++ compiler on the PATH (install g++, or set CXX)")
    command = [program, *_FLAGS, *map(str, sorted(_ROOM.glob("*/*.cpp"))), *_openmp()]
    target = cache_folder() / "kernels" / f"{_digest(command)}.so"
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _compile(command, target)
        except OSError as error:
            raise Unavailable(str(error)) from error
    return target


def _compile(command: list[str], target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _run([*command, "-o", str(temporary)], "the compiler failed")
        # In a process of its own: a wrong instruction kills that one.
        _run([sys.executable, "-c", _CHECK, str(temporary)], "the compiled kernels failed their check")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _run(command: list[str], complaint: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{complaint} (exit {error.returncode}): {error.stderr.strip()[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{complaint}: not done after {_TIMEOUT_S} s") from error
    return done.stdout


def _openmp() -> list[str]:
    """Links torch's own OpenMP runtime: with a second one, two pools of threads would compete for the cores."""
    folder = Path(torch.__file__).parent / "lib"
    bundled = sorted(folder.glob("libgomp*.so*"))
    return [str(bundled[0]), f"-Wl,-rpath,{folder}"] if bundled else []


def _digest(command: list[str]) -> str:
    """Of everything that decides the library's bytes, and the processor that -march=native looks at."""
    digest = hashlib.sha256("\0".join(command).encode())
    digest.update(_run([command[0], "--version"], "the compiler does not answer").encode())
    for source in sorted([*_ROOM.glob("*/*.cpp"), *_ROOM.glob("*/*.h")]):
        digest.update(source.read_bytes())
    cpu = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    digest.update("".join(line for line in cpu if line.startswith(("vendor", "model", "flags"))).encode())
    return digest.hexdigest()[:32]
