"""Reads a source file from a path or an address; what comes from an address has to have a known SHA-256."""

import hashlib
import http.client
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

SCHEMES = ("http", "https", "file")

_PATIENCE = 30  # seconds without an answer


def is_address(source: str) -> bool:
    """Whether a source is an address rather than a path."""
    return "://" in source


def fetch(source: str, sha256: str) -> bytes:
    """The content of a file. sha256: what it must be where `source` is an address.

    Raises:
        ValueError: it is not there, the network is not, the connection broke, or the content is another one.
    """
    if not is_address(source):
        try:
            return Path(source).expanduser().read_bytes()
        except OSError as error:
            raise ValueError(f"--source: {source} cannot be read: {error.strerror}") from error
    if urlsplit(source).scheme not in SCHEMES:
        raise ValueError(f"--source: {source}: an address begins with {', '.join(SCHEMES)}")
    try:
        with urlopen(source, timeout=_PATIENCE) as answer:
            content: bytes = answer.read()
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"--source: {source} cannot be downloaded ({reason}); or give a local folder") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"--source: {source} has {len(content)} bytes of SHA-256 {found[:16]}..., not {sha256[:16]}...: cut short, "
            "damaged or another edition; download it again, or look it over and give it as a local file"
        )
    return content
