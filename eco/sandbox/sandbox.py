"""Runs programs, and judges them by tests, in a pool of processes within walls."""

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from eco.machine import usable_cores
from eco.sandbox.launch import Level
from eco.sandbox.levels import choose
from eco.sandbox.limits import Limits
from eco.sandbox.outcome import Call, Outcome
from eco.sandbox.worker import Worker

Result = TypeVar("Result")


class Sandbox:
    """A pool of workers; a context manager. Safe for threads, not for use in a process forked from its own.

    Each thread of the pool owns a worker, which starts with the thread's first job (0.1 s) and is replaced when it fails.
    Closing it ends every process, and so does the death of the process that made it.
    """

    def __init__(self, level: Level | None = None, limits: Limits | None = None, workers: int | None = None) -> None:
        """
        level: None takes the better of `full` and `no-userns` that can be had here; `weak` and `docker` only by name.
        workers: runs at a time; None: one for each core.

        Raises:
            ValueError: the level cannot be had here; says what is missing and how to get it.
        """
        self.level = choose(level)
        self.limits = limits or Limits()
        self.workers = workers or usable_cores()
        self._pool = ThreadPoolExecutor(self.workers, "sandbox")
        self._thread = threading.local()
        self._all: list[Worker] = []
        self._finalizer = weakref.finalize(self, _close, self._pool, self._all, os.getpid())

    def run(self, program: str, calls: Sequence[Call]) -> list[Outcome]:
        """Runs a program and calls its functions, in order and in one process: one outcome for each call.

        Raises:
            ValueError: an argument that cannot be carried, or a sandbox that is closed.
        """
        return self._submit(lambda worker: worker.run(program, calls)).result()

    def judge(self, program: str, tests: str) -> Outcome:
        """Runs tests (Python source: asserts, or whatever raises) in another process than the program that they call."""
        return self._submit(lambda worker: worker.judge(program, tests)).result()

    def run_many(self, jobs: Sequence[tuple[str, Sequence[Call]]]) -> list[list[Outcome]]:
        """`run` for many programs over the pool; results in the order of the jobs."""
        futures = [self._submit(lambda worker, job=job: worker.run(*job)) for job in jobs]
        return [future.result() for future in futures]

    def judge_many(self, jobs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """`judge` for many (program, tests) over the pool; results in the order of the jobs."""
        futures = [self._submit(lambda worker, job=job: worker.judge(*job)) for job in jobs]
        return [future.result() for future in futures]

    async def arun(self, program: str, calls: Sequence[Call]) -> list[Outcome]:
        """`run` without blocking the event loop."""
        return await asyncio.wrap_future(self._submit(lambda worker: worker.run(program, calls)))

    async def ajudge(self, program: str, tests: str) -> Outcome:
        """`judge` without blocking the event loop."""
        return await asyncio.wrap_future(self._submit(lambda worker: worker.judge(program, tests)))

    def close(self) -> None:
        """Waits for runs that have begun, drops those that have not, and ends every process."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, work: Callable[[Worker], Result]) -> "Future[Result]":
        if not self._finalizer.alive:
            raise ValueError("the sandbox is closed; make another one")
        return self._pool.submit(lambda: work(self._worker()))

    def _worker(self) -> Worker:
        if not hasattr(self._thread, "worker"):
            self._thread.worker = Worker(self.level, self.limits)
            self._all.append(self._thread.worker)
        worker: Worker = self._thread.worker
        return worker


def _close(pool: ThreadPoolExecutor, workers: list[Worker], owner: int) -> None:
    if os.getpid() != owner:  # a forked copy: the processes are not its own
        return
    pool.shutdown(cancel_futures=True)
    for worker in workers:
        worker.close()
