"""What a child does between its birth and untrusted code: everything that it could do to others is taken away.

The settings come from the host as plain JSON, see `eco.sandbox.launch`; this side imports the standard library only.
"""

import contextlib
import os
import resource
import sys
from typing import Any

from eco.sandbox import landlock, namespaces, seccomp, system

_FIRST = 1
"""The pid of a child in its own pid namespace."""


def prepare(settings: dict[str, Any]) -> None:
    """What the zygote does once: without bubblewrap it makes a root of its own, and at `no-userns` it restricts itself.

    Raises:
        OSError: the kernel refused one of the walls.
    """
    if sys.platform == "linux":
        system.no_new_privileges()
    if settings["own_root"]:
        _enter_own_root(settings)
    if settings["user"]:
        system.become(settings["user"])
    if settings["level"] != "weak":  # a fork of the host may hold the stream open that would end with it
        system.die_with_parent()  # after the change of user, with which it is forgotten
    if settings["level"] == "full":
        seccomp.program(_FIRST, changes=True)  # made here, every child finds it
    elif settings["level"] != "weak":
        system.hide_memory()
        os.chdir("/")
        if settings["level"] == "no-userns" or landlock.version():  # a container has walls without it
            landlock.restrict(landlock.version(), [*settings["readable"], *_devices()], ["/dev/null"])


def _enter_own_root(settings: dict[str, Any]) -> None:
    """Goes on in a child that is the first process of new namespaces; this process only waits for its end."""
    child = namespaces.clone(user=not settings["user"])
    if child:
        for descriptor in range(64):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255)
    system.die_with_parent()
    if not settings["user"]:
        namespaces.map_user(65534, 65534)
    namespaces.leave()
    namespaces.own_root(settings["binds"], settings["masked"], settings["late"], settings["links"])


def _devices() -> list[str]:
    return [device for device in ("/dev/zero", "/dev/urandom", "/dev/random") if os.path.exists(device)]


def fork(level: str) -> int:
    """A child: at `full` the first process of namespaces of its own."""
    return namespaces.clone() if level == "full" else os.fork()


def isolate(settings: dict[str, Any]) -> None:
    """To be called in the child, its descriptors above CHANNEL closed.

    Raises:
        OSError: the kernel refused one of the walls; the message names it.
    """
    level = settings["level"]
    os.setsid()
    if level != "weak":
        system.die_with_parent()
    if level == "full":
        namespaces.map_user(65534, 65534)
        namespaces.leave()
        namespaces.private_tmp(settings["file_mb"])
    _limit(settings)
    if level != "weak":
        system.drop_capabilities()
        system.no_new_privileges()
        if level == "full":
            landlock.restrict(landlock.version(), [*settings["readable"], *_devices()], ["/dev/null", "/tmp"])
        seccomp.install(seccomp.program(os.getpid(), changes=level == "full"))


def _limit(settings: dict[str, Any]) -> None:
    limits = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, settings["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, settings["file_mb"] << 20),
        (resource.RLIMIT_NOFILE, settings["open_files"]),
        (resource.RLIMIT_MEMLOCK, 0),
    ]
    if sys.platform != "darwin":  # which refuses any: a process there has more than that when it begins
        limits.append((resource.RLIMIT_AS, settings["memory_mb"] << 20))
    if settings["level"] == "full":  # counted within the user namespace; elsewhere the user's other processes count
        limits.append((resource.RLIMIT_NPROC, settings["threads"]))
    for which, limit in limits:
        resource.setrlimit(which, (limit, limit))
