"""Runs programs, and judges them by tests, in a pool of processes within walls."""

import asyncio
import os
import queue
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

from eco.machine import usable_cores
from eco.sandbox.launch import Level, package_files
from eco.sandbox.levels import choose
from eco.sandbox.limits import Limits
from eco.sandbox.outcome import Call, Outcome
from eco.sandbox.worker import Worker

A = TypeVar("A")
B = TypeVar("B")


class Sandbox:
    """A pool of workers; a context manager. Safe for threads; refuses to be used in a fork of its process.

    A worker starts with its first run (0.1 s) and is replaced when it fails. Closing the sandbox ends every process,
    and so does the death of the process that made it.
    """

    def __init__(self, level: Level | None = None, limits: Limits | None = None, workers: int | None = None) -> None:
        """
        level: None takes the better of `full` and `no-userns` that can be had here; `weak` and `docker` only by name.
        workers: runs at a time; None: one for each core.

        Raises:
            ValueError: the level cannot be had here (says what is missing and how to get it), or a package is missing.
        """
        self.level = choose(level)
        self.limits = limits or Limits()
        package_files(self.limits.packages)
        self.workers = workers or usable_cores()
        # The kernel ends a zygote with the thread that started it: one thread starts them all, and lives as long.
        starter = ThreadPoolExecutor(1, "sandbox-start")
        pool = ThreadPoolExecutor(self.workers, "sandbox")
        workshop = [Worker(self.level, self.limits, starter) for _ in range(self.workers)]
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in workshop:
            self._free.put(worker)
        self._pool = pool
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _close, pool, starter, workshop, self._owner)

    def run(self, program: str, calls: Sequence[Call]) -> list[Outcome]:
        """Runs a program and calls its functions, in order and in one process: one outcome for each call.

        Raises:
            ValueError: an argument that cannot be carried, or a sandbox that is closed or of another process.
        """
        with self._worker() as worker:
            return worker.run(program, calls)

    def judge(self, program: str, tests: str) -> Outcome:
        """Runs tests, Python source that raises where something is wrong, in another process than the program."""
        with self._worker() as worker:
            return worker.judge(program, tests)

    def run_many(self, jobs: Sequence[tuple[str, Sequence[Call]]]) -> list[list[Outcome]]:
        """`run` for many programs over the pool; results in the order of the jobs."""
        return list(self._usable_pool().map(self.run, *_columns(jobs)))

    def judge_many(self, jobs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """`judge` for many (program, tests) over the pool; results in the order of the jobs."""
        return list(self._usable_pool().map(self.judge, *_columns(jobs)))

    async def arun(self, program: str, calls: Sequence[Call]) -> list[Outcome]:
        """`run` without blocking the event loop."""
        return await asyncio.wrap_future(self._usable_pool().submit(self.run, program, calls))

    async def ajudge(self, program: str, tests: str) -> Outcome:
        """`judge` without blocking the event loop."""
        return await asyncio.wrap_future(self._usable_pool().submit(self.judge, program, tests))

    def close(self) -> None:
        """Ends every process. What still runs for another thread comes to an `infrastructure` outcome."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _usable_pool(self) -> ThreadPoolExecutor:
        self._check()
        return self._pool

    def _check(self) -> None:
        if os.getpid() != self._owner:
            raise ValueError("this sandbox belongs to the process that made it; make one in the fork")
        if not self._finalizer.alive:
            raise ValueError("the sandbox is closed; make another one")

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        self._check()
        worker = self._free.get()
        try:
            with worker:
                yield worker
        finally:
            self._free.put(worker)


def _columns(jobs: Sequence[tuple[A, B]]) -> tuple[list[A], list[B]]:
    return [first for first, _ in jobs], [second for _, second in jobs]


def _close(pool: ThreadPoolExecutor, starter: ThreadPoolExecutor, workers: list[Worker], owner: int) -> None:
    if os.getpid() != owner:  # a forked copy: the processes are not its own
        return
    pool.shutdown(wait=False)  # what it has still to do finds the sandbox closed
    for worker in workers:
        worker.retire()
    starter.shutdown()
