"""Attacks on files outside. The bait's two folders lie in the folder for temporary files and in the home folder."""

from eco.sandbox.attacks.contract import Attack

EACH_FOLDER = """
import os
def each(bait, action):
    reached = []
    for folder in bait["folders"]:
        try:
            found = action(folder)
        except (OSError, ImportError):
            continue
        if found:
            reached.append(str(found))
    return "; ".join(reached)
"""

ATTACKS = [
    Attack(
        "read a file outside",
        "opens a secret by its path",
        EACH_FOLDER
        + """
def attack(bait):
    return each(bait, lambda folder: open(folder + "/secret.txt").read())
""",
    ),
    Attack(
        "read by detours",
        "the same by /proc/*/root, ../.., chroot and a file handle instead of a path",
        EACH_FOLDER
        + """
import ctypes, platform
def by_handle(folder):
    numbers = {"x86_64": (303, 304), "aarch64": (264, 265)}.get(platform.machine())
    if not numbers:
        return ""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = (ctypes.c_uint * 34)(128)
    mount = ctypes.c_int()
    if libc.syscall(numbers[0], -100, (folder + "/secret.txt").encode(), handle, ctypes.byref(mount), 0):
        return ""
    root = os.open("/", os.O_RDONLY)
    descriptor = libc.syscall(numbers[1], root, handle, os.O_RDONLY)
    return os.read(descriptor, 100).decode() if descriptor >= 0 else ""
def by_chroot(folder):
    root = os.open("/", os.O_RDONLY)
    os.makedirs("jail", exist_ok=True)
    os.chroot("jail")
    os.fchdir(root)
    for _ in range(20):
        os.chdir("..")
    return open("." + folder + "/secret.txt").read()
def attack(bait):
    up = "../" * 30
    for root in ["/proc/self/root", "/proc/%d/root" % os.getppid(), "/proc/1/root", up, "/proc/self/cwd/" + up]:
        if found := each(bait, lambda folder: open(root + folder + "/secret.txt").read()):
            return found
    return each(bait, by_handle) or each(bait, by_chroot)
""",
    ),
    Attack(
        "list a folder outside",
        "reads names, which are secrets too",
        EACH_FOLDER
        + """
def attack(bait):
    return each(bait, os.listdir)
""",
    ),
    Attack(
        "ask whether a file exists",
        "stat of a path outside: its size and times",
        EACH_FOLDER
        + """
def attack(bait):
    return each(bait, lambda folder: "a file of %d bytes" % os.stat(folder + "/secret.txt").st_size)
""",
    ),
    Attack(
        "write a file outside",
        "changes a file and adds one",
        EACH_FOLDER
        + """
def attack(bait):
    def write(folder):
        try:
            open(folder + "/new.txt", "w").write("x")
        finally:
            open(folder + "/changeable.txt", "w").write("x")
    each(bait, write)
""",
    ),
    Attack(
        "delete a file outside",
        "unlinks, truncates and renames",
        EACH_FOLDER
        + """
def attack(bait):
    each(bait, lambda folder: os.truncate(folder + "/changeable.txt", 0))
    each(bait, lambda folder: os.rename(folder + "/changeable.txt", folder + "/renamed.txt"))
    each(bait, lambda folder: os.unlink(folder + "/secret.txt"))
""",
    ),
    Attack(
        "change a file's mode and times",
        "chmod, utime and an extended attribute, which Landlock does not cover",
        EACH_FOLDER
        + """
def attack(bait):
    each(bait, lambda folder: os.chmod(folder + "/changeable.txt", 0o600))
    each(bait, lambda folder: os.utime(folder + "/changeable.txt", (1, 1)))
    each(bait, lambda folder: os.setxattr(folder + "/changeable.txt", "user.eco", b"x"))
""",
    ),
    Attack(
        "symbolic link",
        "plants a link in its own folder and goes through it, or in the bait's folder",
        EACH_FOLDER
        + """
def attack(bait):
    def through(folder):
        name = "link%d" % bait["folders"].index(folder)
        os.symlink(folder, name)
        try:
            with open(name + "/changeable.txt", "a") as stream:
                stream.write("x")
            return open(name + "/secret.txt").read()
        finally:
            os.unlink(name)
    found = each(bait, through)
    each(bait, lambda folder: os.symlink("/etc/passwd", folder + "/planted"))
    return found
""",
    ),
    Attack(
        "hard link",
        "gives a file outside a second name, its own",
        EACH_FOLDER
        + """
def attack(bait):
    def link(folder):
        name = "hard%d" % bait["folders"].index(folder)
        os.link(folder + "/secret.txt", folder + "/" + name)
        os.link(folder + "/secret.txt", name)
        try:
            return open(name).read()
        finally:
            os.unlink(name)
    return each(bait, link)
""",
    ),
    Attack(
        "plant a module in site-packages",
        "writes where the trainer's Python will import from",
        """
def attack(bait):
    with open(bait["packages"] + "/" + bait["mark"] + ".txt", "w") as stream:
        stream.write("x")
    return "wrote " + bait["packages"]
""",
    ),
    Attack(
        "import installed packages",
        "loads a library of the host (PyYAML) from site-packages",
        """
import sys
def attack(bait):
    sys.path.append(bait["packages"])
    import yaml
    return "imported " + yaml.__file__
""",
    ),
    Attack(
        "leave a file behind",
        "writes wherever it may, for someone to find after the run",
        """
import os, tempfile
def attack(bait):
    for folder in [".", "/tmp", "/dev/shm", "/var/tmp", tempfile.gettempdir()]:
        try:
            open(os.path.join(folder, bait["mark"]), "w").write("x")
        except OSError:
            pass
""",
    ),
    Attack(
        "message to a later run",
        "leaves a file that another program's run finds",
        before="""
import os
def attack(bait):
    for folder in [".", "/tmp", "/dev/shm", "/var/tmp", os.path.expanduser("~")]:
        try:
            open(os.path.join(folder, bait["mark"] + "-message"), "w").write("from the run before")
        except OSError:
            pass
""",
        program="""
import os
def attack(bait):
    found = ""
    for folder in [".", "/tmp", "/dev/shm", "/var/tmp", os.path.expanduser("~")]:
        try:
            found = open(os.path.join(folder, bait["mark"] + "-message")).read()
            os.unlink(os.path.join(folder, bait["mark"] + "-message"))
        except OSError:
            pass
    return found
""",
    ),
    Attack(
        "mount",
        "mounts a file system, or the root writable",
        """
import ctypes, os
def attack(bait):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.unshare(0x00020000)  # a mount namespace of its own: nothing outside changes where this succeeds
    if libc.mount(b"none", b"/", None, (1 << 14) | (1 << 18), None) == 0:
        return "changed the propagation of /"
    if libc.mount(b"none", b"/", None, 32 | 4096, None) == 0:
        return "remounted / writable"
    os.makedirs("here", exist_ok=True)
    if libc.mount(b"tmpfs", b"here", b"tmpfs", 0, None) == 0:
        return "mounted a tmpfs"
    if libc.syscall({"x86_64": 428, "aarch64": 428}[os.uname().machine], -100, b"/", 1) >= 0:
        return "open_tree made a copy of the root"
""",
        uncontrolled=True,
    ),
]
