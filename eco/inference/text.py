"""Turns the bytes of tokens into text that can be shown while it grows."""

import codecs
from collections.abc import Sequence


class GrowingText:
    """Collects bytes, ends at a stop string, and never shows part of a stop string or of a UTF-8 character.

    known: how many of the first bytes the prompt has shown already; no stop string is looked for in them.
    """

    def __init__(self, stop: Sequence[str], known: int = 0) -> None:
        self._known = known
        self._stops = [text.encode() for text in stop]
        self._longest = max(map(len, self._stops), default=0)
        self._bytes = bytearray()
        self._shown = known
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, piece: bytes) -> bool:
        """Appends the bytes of one token; True once a stop string is complete, and the text then ends before it."""
        # A stop string that starts before this point would have been found with an earlier token.
        start = max(self._known, len(self._bytes) - self._longest + 1)
        self._bytes += piece
        found = [at for stop in self._stops if (at := self._bytes.find(stop, start)) >= 0]
        if found:
            del self._bytes[min(found) :]
        return bool(found)

    def show(self, final: bool) -> str:
        """What may be shown since the last call; `final` also releases what waited for a possible continuation."""
        end = len(self._bytes) if final else len(self._bytes) - self._held()
        fresh = self._decoder.decode(bytes(self._bytes[self._shown : end]), final)
        self._shown = end
        return fresh

    def _held(self) -> int:
        """Length of the longest end of the text that could become a stop string."""
        for length in range(min(self._longest - 1, len(self._bytes)), 0, -1):
            end = bytes(self._bytes[-length:])
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
