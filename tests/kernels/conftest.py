"""Kernel tests compare the reference in float64, plain torch, the C++ where this machine has it, and Triton."""

import importlib.util
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from eco.kernels import native


@pytest.fixture
def cpp() -> None:
    """Skips where there are no C++ kernels."""
    if native.library() is None:
        pytest.skip("no C++ kernels on this machine")


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Callable[..., Any]]:
    """Calls a function in a process where Triton interprets its kernels and is the first choice.

    Triton reads its variable when it is imported, and what it defines then it keeps; so it gets a process of its own.
    """
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    with (
        pytest.MonkeyPatch.context() as patch,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process,
    ):
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setenv("ECO_KERNELS", "triton")
        process.submit(int).result()
        patch.undo()
        yield lambda *call: process.submit(*call).result()
