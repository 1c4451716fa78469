"""What a run may use."""

from eco.config import Config, setting


class Limits(Config):
    seconds: float = setting(4.0, "wall-clock seconds of a run", gt=0, le=3600)
    cpu_seconds: int = setting(4, "processor seconds of a run, over all its threads", ge=1, le=3600)
    memory_mb: int = setting(512, "address space of the process; macOS has no such limit", ge=64)
    file_mb: int = setting(16, "room for files in the private /tmp, and the largest file", ge=1)
    output_kb: int = setting(64, "how much of what a run prints is kept", ge=0, le=2048)
    open_files: int = setting(64, "descriptors", ge=16, le=1024)
    threads: int = setting(32, "threads of a run at `full` and `docker`; elsewhere nothing bounds machine code", ge=1)
    packages: tuple[str, ...] = setting((), "installed packages that programs may import beside the standard library")
