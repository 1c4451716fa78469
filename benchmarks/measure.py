"""How every figure here is taken: candidates take turns in one process, so drift of the machine hits all of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    name: what was measured, such as "train 10M, bf16: eco".
    value, unit: the median and its unit, such as 7_691 and "tokens/s".
    limit_ratio: the share of the machine's own limit that was reached, 1 being the limit; None where there is none.
    limit_name: that limit, such as "matmul bfloat16".
    peer_ratio: how many times as good as the fastest peer (above 1 is better, whatever the unit); None for a peer.
    note: what a reader must know to repeat or judge the figure.
    """

    name: str
    value: float
    unit: str
    limit_ratio: float | None = None
    limit_name: str = ""
    peer_ratio: float | None = None
    note: str = ""


def alternate(candidates: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Samples of each candidate, which measures itself once per call and returns its figure.

    One untimed call each first (it compiles, allocates and faults in pages). The order rotates by one from round to
    round, so that nobody always runs behind the same neighbour.
    """
    names = list(candidates)
    for name in names:
        candidates[name]()
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(candidates[name]())
    return samples


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call in seconds."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
