"""Which walls can be had on this machine, and what to do about those that cannot."""

import functools
import platform
import shutil

from eco.sandbox import landlock
from eco.sandbox.launch import Level, start
from eco.sandbox.limits import Limits
from eco.sandbox.process import Broken

ORDER: tuple[Level, ...] = ("full", "no-userns", "docker", "weak")
"""From the strongest to the weakest that runs on this machine."""


def choose(level: Level | None) -> Level:
    """The level asked for, or the better of `full` and `no-userns`.

    Raises:
        ValueError: it cannot be had here; the message says what is missing and how to get it.
    """
    wanted: tuple[Level, ...] = ("full", "no-userns") if level is None else (level,)
    reasons = {}
    for name in wanted:
        reasons[name] = missing(name)
        if reasons[name] is None:
            return name
    listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    hint = (
        "" if level else " (weaker: `docker` where Docker runs, or `weak`, which only limits resources; both by name)"
    )
    raise ValueError(f"this machine cannot run untrusted code safely: {listed}{hint}")


@functools.cache
def missing(level: Level) -> str | None:
    """Why a level cannot be had here and how to get it; None if it can, which is tried out."""
    if level not in ORDER:
        raise ValueError(f"there is no level {level!r} of the sandbox; choose from {', '.join(ORDER)}")
    return _unfit(level) or _tried(level)


def _unfit(level: Level) -> str | None:
    system = platform.system()
    if level == "docker":
        return None if shutil.which("docker") else "there is no `docker` on the PATH; install Docker or Podman's docker"
    if system == "Windows":
        return "Windows cannot fork; run Eco in WSL 2, or take the level `docker`"
    if level == "weak":
        return None
    if system != "Linux":
        return f"Landlock and seccomp are Linux's, and this is {system}; take the level `docker`, or `weak` by name"
    if platform.machine() not in ("x86_64", "aarch64"):
        return f"the filter of system calls is written for x86_64 and aarch64, not for {platform.machine()}"
    if landlock.version() == 0:
        return "the kernel has no Landlock; use Linux 5.13 or newer, booted with `landlock` in its `lsm=` parameter"
    return None


def _tried(level: Level) -> str | None:
    try:
        start(level, "candidate", Limits()).close()
    except (Broken, OSError) as error:
        return f"{error}{_ADVICE.get(level, '')}"
    return None


_ADVICE = {
    "full": (
        "; it needs user namespaces: `sysctl -w user.max_user_namespaces=10000`, on Debian "
        "`kernel.unprivileged_userns_clone=1`, on Ubuntu `kernel.apparmor_restrict_unprivileged_userns=0`, "
        "in a container `--security-opt seccomp=unconfined`"
    ),
    "docker": "; it needs the image (`docker pull python:3.11-slim`) and the right to use Docker",
}
