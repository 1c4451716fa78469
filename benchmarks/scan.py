"""The core of a Mamba block, forward and backward: Eco's Mamba-3 beside Mamba-1 (mambapy) and plain chunked Mamba-2.

512 channels as 8 heads of 64, state 16, rank 1, batch 4, 1,024 positions, fp32; a quarter of the pairs of keys' and
queries' entries rotate. Every candidate takes what its block's projections give and returns what goes into the last
one, skip and gate included; only Mamba-3's is complex, sees the previous position's input and biases keys and queries.
`python -m benchmarks --only scan` prints the rows.
"""

import importlib.util
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Row, alternate, seconds
from benchmarks.published_ssd import ssd
from eco import machine
from eco.kernels.mamba3 import Mamba3Weights, mamba3_mix

BATCH, TIME, LONG_TIME = 4, 1024, 4096
HEADS, CHANNELS, STATE, ROTATED = 8, 64, 16, 4
CHUNK = 32
PUBLISHED_CHUNK = 64
ECO, MAMBAPY, SSD = "eco mamba-3", "mambapy, mamba-1", "plain ssd, mamba-2"

Step = Callable[[], None]


def rows(rounds: int = 5) -> list[Row]:
    """Medians in ms, then how time grows with the length, then the memory that one step takes."""
    makers = _makers()
    steps = {name: _timed(make(TIME)) for name, make in makers.items()}
    longer = f"{ECO}, T {LONG_TIME}"
    samples = alternate({**steps, longer: _timed(_eco(LONG_TIME))}, rounds)
    median = {name: statistics.median(values) for name, values in samples.items()}
    fastest = min(median[name] for name in makers if name != ECO)
    times = [
        Row(
            f"scan: {name}",
            median[name] * 1e3,
            "ms",
            peer_ratio=fastest / median[name] if name == ECO else None,
            note=f"{median[name] / median[ECO]:.2f} x the time of eco",
        )
        for name in makers
    ]
    growth = Row(f"scan: {ECO}, T {LONG_TIME} over T {TIME}", median[longer] / median[ECO], "x", note="linear is 4")
    peaks = {name: _peak_bytes(name) / 2**20 for name in makers}
    smallest = min(peaks[name] for name in makers if name != ECO)
    memory = [
        Row(
            f"scan, peak memory: {name}",
            peaks[name],
            "MiB",
            peer_ratio=smallest / peaks[name] if name == ECO else None,
            note="growth of a fresh process, inputs and gradients included",
        )
        for name in makers
    ]
    skipped = [] if MAMBAPY in makers else [Row(f"scan: {MAMBAPY}", 0, "ms", note="skipped: pip install mambapy")]
    return [*times, *skipped, growth, *memory]


def _makers() -> dict[str, Callable[[int], Step]]:
    """By name, what builds a training step for so many positions."""
    makers = {ECO: _eco, SSD: _ssd}
    if importlib.util.find_spec("mambapy"):
        makers[MAMBAPY] = _mambapy
    return makers


def _timed(step: Step) -> Callable[[], float]:
    return lambda: seconds(step)


def _eco(time: int) -> Step:
    draw = _Draw()
    x, gate = draw(BATCH, time, HEADS, CHANNELS), draw(BATCH, time, HEADS, CHANNELS)
    key, query = draw(BATCH, time, 1, STATE), draw(BATCH, time, 1, STATE)
    log_decay, gain, previous_gain = draw.decay(time, HEADS), draw(BATCH, time, HEADS), draw(BATCH, time, HEADS)
    rotation = draw(BATCH, time, HEADS, ROTATED), draw(BATCH, time, HEADS, ROTATED)
    biases, by_rank = (draw(HEADS, 1, STATE), draw(HEADS, 1, STATE)), [draw(HEADS, 1, CHANNELS) for _ in range(3)]
    weights = Mamba3Weights(*biases, *by_rank, draw(HEADS))
    inputs = (x, gate, key, query, log_decay, gain, previous_gain, rotation, weights)
    return _step(lambda: mamba3_mix(*inputs, chunk=CHUNK)[0])


def _ssd(time: int) -> Step:
    draw = _Draw()
    x, gate = draw(BATCH, time, HEADS, CHANNELS), draw(BATCH, time, HEADS, CHANNELS)
    key, query, skip = draw(BATCH, time, STATE), draw(BATCH, time, STATE), draw(HEADS)
    log_decay, gain = draw.decay(time, HEADS), draw(BATCH, time, HEADS)

    def forward() -> Tensor:
        y = ssd(x * gain[..., None], log_decay, key, query, PUBLISHED_CHUNK)
        return (y + skip[:, None] * x) * F.silu(gate)

    return _step(forward)


def _mambapy(time: int) -> Step:
    from mambapy.mamba import MambaBlock

    width = HEADS * CHANNELS
    draw = _Draw()
    x, gate, gain = (draw(BATCH, time, width) for _ in range(3))
    rates, skip = draw(width, STATE), draw(width)
    key, query = draw(BATCH, time, STATE), draw(BATCH, time, STATE)

    def forward() -> Tensor:
        y = MambaBlock.selective_scan(None, x, gain.abs(), -rates.abs(), key, query, skip)
        return y * F.silu(gate)

    return _step(forward)


class _Draw:
    """Leaves that gather gradients, the same at every call."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator).requires_grad_()

    def decay(self, time: int, heads: int) -> Tensor:
        """Logarithms of decays that halve the memory every 7 positions, on average."""
        return (0.1 * torch.randn(BATCH, time, heads, generator=self._generator)).abs().neg().requires_grad_()


def _step(forward: Callable[[], Tensor]) -> Step:
    upstream = torch.randn(forward().shape, generator=torch.Generator().manual_seed(1))
    return lambda: forward().backward(upstream)


def _peak_bytes(name: str) -> int:
    """How much the first step makes a process grow at its highest, after one that is 16 times shorter."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_growth, name).result()


def _growth(name: str) -> int:
    machine.prepare()
    make = _makers()[name]
    make(TIME // 16)()
    before = _highest_bytes()
    make(TIME)()
    return _highest_bytes() - before


def _highest_bytes() -> int:
    """Of this process alone; what getrusage says begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
