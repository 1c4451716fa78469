"""Kernel tests compare three paths: the reference in float64, plain torch, and the C++ where this machine has it."""

import pytest

from eco.kernels import native


@pytest.fixture
def cpp() -> None:
    """Skips where there are no C++ kernels."""
    if native.library() is None:
        pytest.skip("no C++ kernels on this machine")
