"""The child's end of the channel: frames to and from the host, each after its length (4 bytes, little-endian)."""

import fcntl
import os

CHANNEL = 3
"""The descriptor of the channel in a child; 0 is /dev/null, 1 and 2 are its output, and there are no others."""

_HIGH = 32
_PIECE = 1 << 20


def take(channel: int, output: int) -> None:
    """Puts the child's descriptors where they belong and closes all others."""
    null = os.open("/dev/null", os.O_RDONLY)
    # Copies with high numbers first, as any of these may have the number that another is to get.
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _HIGH) for descriptor in (null, output, output, channel)]
    for number, copy in enumerate(copies):
        os.dup2(copy, number)
    os.closerange(CHANNEL + 1, os.sysconf("SC_OPEN_MAX"))


def read_frame() -> bytes:
    """The next frame from the host, b"" when there are no more."""
    header = _read(4)
    return _read(int.from_bytes(header, "little")) if header else b""


def write_frame(frame: bytes) -> None:
    """Sends a frame to the host."""
    send(len(frame).to_bytes(4, "little") + frame)


def send(data: bytes) -> None:
    """Sends bytes as they are."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(CHANNEL, rest) :]


def _read(count: int) -> bytes:
    parts = []
    while count:
        part = os.read(CHANNEL, min(count, _PIECE))
        if not part:
            return b""
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
