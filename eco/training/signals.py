"""Ctrl+C and SIGTERM: the first asks the loop to end after the step in hand, the second ends the process at once."""

import os
import signal
import threading
from types import FrameType, TracebackType

ASKED = (signal.SIGINT, signal.SIGTERM)


class GracefulStop:
    """Context manager; `asked` becomes the signal's name after the first one. Restores the handlers it found.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "GracefulStop":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in ASKED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # exactly what signal.signal returned

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            os._exit(128 + number)
        self.asked = signal.Signals(number).name
