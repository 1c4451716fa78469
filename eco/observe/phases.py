"""Where the time of training goes: nested timers by name, read once per logged interval."""

import time

import torch


class Phases:
    """Named timers: `with phases("train"), phases("forward"): ...`.

    A phase may contain others; its time includes theirs. On a GPU the times are the stream's own, taken by events that
    are read only in `collect`: launching work costs nothing here and appears where it ran, and waiting for data shows
    as the time in which the GPU had nothing to do.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        """Times the current stream of `device` if that is a GPU, else this process."""
        on_gpu = device is not None and device.type == "cuda"
        self._timer = _StreamTimer if on_gpu else _HostTimer
        self._timers: dict[str, _HostTimer | _StreamTimer] = {}

    def __call__(self, name: str) -> "_HostTimer | _StreamTimer":
        """The context manager that adds the time of its block to phase `name`; a phase does not contain itself."""
        if name not in self._timers:
            self._timers[name] = self._timer()
        return self._timers[name]

    def collect(self) -> dict[str, float]:
        """Seconds spent in each phase since the last call. A phase still open counts with the next call."""
        return {name: timer.take() for name, timer in self._timers.items()}


class _HostTimer:
    """Adds up the wall time of its blocks."""

    def __init__(self) -> None:
        self._total = self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._total += time.perf_counter() - self._started

    def take(self) -> float:
        total, self._total = self._total, 0.0
        return total


class _StreamTimer:
    """Adds up the time that the current CUDA stream spent between the two ends of its blocks."""

    _MOST_PENDING = 512
    """Blocks measured but not yet read; above it the older half is read, whose work is long done."""

    def __init__(self) -> None:
        self._total = 0.0
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        self._start = _record()

    def __exit__(self, *_: object) -> None:
        self._pending.append((self._start, _record()))
        if len(self._pending) > self._MOST_PENDING:
            self._read(self._MOST_PENDING // 2)

    def take(self) -> float:
        self._read(len(self._pending))
        total, self._total = self._total, 0.0
        return total

    def _read(self, count: int) -> None:
        for start, end in self._pending[:count]:
            end.synchronize()
            self._total += start.elapsed_time(end) / 1000
        del self._pending[:count]


def _record() -> torch.cuda.Event:
    """An event at the end of what the current stream has to do."""
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
