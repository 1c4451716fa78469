"""What this machine can do at best: put these among the candidates of `alternate`, so they see the same conditions."""

import functools
from statistics import median

import torch

from benchmarks.measure import Row, alternate, seconds

SIDE = 2048
"""Rows and columns of the matrix product that counts as the limit of arithmetic."""

COPY_BYTES = 1 << 28
"""256 MiB: large enough that few caches hold it."""


@functools.cache
def _square_matrices(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIDE, SIDE, generator=generator).to(dtype) for _ in range(2))
    return left, right, torch.empty_like(left)


@functools.cache
def _copy_buffers() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(COPY_BYTES, dtype=torch.uint8), torch.ones(COPY_BYTES, dtype=torch.uint8)


def matmul(dtype: torch.dtype, repeats: int = 3) -> float:
    """FLOP/s of a 2048^3 matrix product in `dtype`, the mean of `repeats` products (17 GFLOP each)."""
    left, right, out = _square_matrices(dtype)

    def products() -> None:
        for _ in range(repeats):
            torch.mm(left, right, out=out)

    return repeats * 2 * SIDE**3 / seconds(products)


def copy_bandwidth() -> float:
    """Bytes/s of copying 256 MiB in memory, counting what is read and what is written."""
    target, source = _copy_buffers()
    return 2 * COPY_BYTES / seconds(lambda: target.copy_(source))


def read_bandwidth() -> float:
    """Bytes/s of reading 256 MiB, as a sum over fp32; the floor of decoding is the weights' bytes through this."""
    _, source = _copy_buffers()
    return COPY_BYTES / seconds(source.view(torch.float32).sum)


def weight_seconds(weight_bytes: int) -> float:
    """Seconds to read so many bytes of weights once: no decoder of one sequence emits a token faster."""
    return weight_bytes / read_bandwidth()


def rows(rounds: int) -> list[Row]:
    """The limits by themselves, for the reader; each benchmark measures those it needs again between its rounds."""
    candidates = {
        "matmul 2048^3, float32": lambda: matmul(torch.float32) / 1e9,
        "matmul 2048^3, bfloat16": lambda: matmul(torch.bfloat16) / 1e9,
        "copy 256 MiB": lambda: copy_bandwidth() / 1e9,
        "read 256 MiB": lambda: read_bandwidth() / 1e9,
    }
    return [
        Row(f"limit: {name}", median(samples), "GFLOP/s" if "matmul" in name else "GB/s")
        for name, samples in alternate(candidates, rounds).items()
    ]
