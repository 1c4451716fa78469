"""Reads batches ahead of the training step, in threads."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from eco.data.stream import Batch


class Samples(Protocol):
    """An endless order of samples with random access."""

    def batch(self, index: int, count: int) -> Batch:
        """Samples `index` to `index + count - 1`. Called from several threads."""
        ...


def prefetch(
    stream: Samples, start: int, count: int, *, stride: int | None = None, workers: int = 1, ahead: int = 2
) -> Iterator[Batch]:
    """Yields `stream.batch(i, count)` for i = start, start + stride, ..., without end.

    stride: samples from one batch to the next; `count` unless several processes share the samples.
    workers: threads; with 0 each batch is read when it is asked for. The batches are the same for any number.
    ahead: batches that are ready or being read while the caller works on one.

    What a thread raises is raised here, at its batch. Closing the generator ends the threads.
    """
    stride = count if stride is None else stride
    if workers == 0:
        while True:
            yield stream.batch(start, count)
            start += stride
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    waiting: deque[Future[Batch]] = deque()
    try:
        while True:
            while len(waiting) <= ahead:
                waiting.append(pool.submit(stream.batch, start, count))
                start += stride
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
