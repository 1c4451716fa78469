"""The Triton kernels compile to machine code for GPUs, which needs none, and fit into what a block of them shares."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

SHARED_BYTES = 99 << 10
"""Per block on consumer GPUs since compute capability 8.6; others have more."""

MIXER = {
    **dict.fromkeys(("q", "k", "v", "y", "dy", "dq", "dk", "dv"), "DTYPE"),
    **dict.fromkeys(("gain", "merged", "start", "memories", "last", "dlast"), "*fp32"),
    **dict.fromkeys(("ddecay", "dgain", "dmerged", "dstart"), "*fp32"),
    "total": "*fp64", "documents": "*i64", "heads": "i32", "chunks": "i32",
}  # fmt: skip
HEAD = {"logits": "DTYPE", "targets": "*i64", "losses": "*fp32", "ignore_index": "i32", "vocabulary": "i32"}
PACKED = {
    **dict.fromkeys(("x", "out"), "DTYPE"), "packed": "*u8", "columns": "*fp32",
    **dict.fromkeys(("n", "rows", "width", "quarter"), "i32"),
}  # fmt: skip
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


def mixer(dtype: torch.dtype) -> dict[str, Any]:
    """Constants of the largest mixer, as the kernels are launched for it."""
    from eco.kernels.mamba3 import triton

    width = triton.MOST_MEMORY_BYTES // dtype.itemsize // 64
    rows, values = torch.empty(1, 1, 1, triton.MOST_ROWS, width, dtype=dtype), torch.empty(1, 1, 1, 1, 64)
    assert triton.able(4, width, 64, dtype) and not triton.able(4, 2 * width, 64, dtype)
    return triton._sizes(rows, values, torch.empty(1, 1, 1, triton.MOST_ROWS // 4))


def head(dtype: torch.dtype) -> dict[str, Any]:
    return {"BLOCK": 4096, "num_warps": 8}


def packed(dtype: torch.dtype) -> dict[str, Any]:
    return {"LEAST": 1e-30, "ROWS": 64, "COLUMNS": 64, "BYTES": 64, "num_stages": 1, "enable_fp_fusion": False}


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("operation", "name", "types", "constants"),
    [
        ("mamba3", "_forward", MIXER, mixer),
        ("mamba3", "_backward", MIXER, mixer),
        ("cross_entropy", "_losses_and_gradients", HEAD, head),
        ("ternary", "_packed_linear", PACKED, packed),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_compiles_and_fits(
    operation: str,
    name: str,
    types: dict[str, str],
    constants: Any,
    dtype: torch.dtype,
    capability: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(importlib.import_module(f"eco.kernels.{operation}.triton"), name)
    given = constants(dtype)
    pointer = "*fp32" if dtype == torch.float32 else "*bf16"
    signature = {word: types.get(word, "constexpr").replace("DTYPE", pointer) for word in kernel.arg_names}
    values = {(kernel.arg_names.index(w),): given[w] for w, kind in signature.items() if kind == "constexpr"}
    options = {word: given[word] for word in OPTIONS if word in given}
    compiled = triton.compile(ASTSource(kernel, signature, values), GPUTarget("cuda", capability, 32), options)
    assert compiled.asm["cubin"] and compiled.metadata.shared <= SHARED_BYTES
