"""Ctrl+C and SIGTERM: the first asks the loop to end after the step in hand, the second ends the process at once."""

import os
import signal
import socket
import threading
from types import FrameType, TracebackType

ASKED = (signal.SIGINT, signal.SIGTERM)


class GracefulStop:
    """Context manager; `asked` becomes the signal's name after the first one. Restores the handlers it found.

    Python runs its handlers between two bytecodes, so not while one call computes for seconds. Here a thread reads the
    numbers of the signals that the C handler writes to a socket at once, and a second one is obeyed in mid-step.
    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "GracefulStop":
        if threading.current_thread() is threading.main_thread():
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno())
            self._before = {number: signal.signal(number, _wake_only) for number in ASKED}
            threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._before:
            return
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # exactly what signal.signal returned
        self._writer.close()

    def _watch(self) -> None:
        with self._reader:
            while received := self._reader.recv(1):
                if received[0] not in ASKED:
                    continue
                if self.asked:
                    os._exit(128 + received[0])
                self.asked = signal.Signals(received[0]).name


def _wake_only(number: int, frame: FrameType | None) -> None:
    """The number has already gone to the socket."""
