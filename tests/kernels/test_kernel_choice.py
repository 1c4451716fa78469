"""Which implementation runs: the C++ is found, refused, warned about and stepped around as documented."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from eco.kernels import native
from eco.kernels.attention import causal_attention, packed_attention
from eco.kernels.norm import add_unit_rms_norm, rms_norm

SHOW = """
import torch
from eco.kernels import native
from eco.kernels.attention import causal_attention
x = torch.ones(1, 1, 64, 32, dtype=torch.bfloat16, requires_grad=True)
print(type(causal_attention(x, x, x).grad_fn).__name__)
"""


def show(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a fresh process with an empty cache of kernels uses for attention."""
    variables = {**os.environ, "ECO_CACHE": str(tmp_path / "cache"), **environment}
    return subprocess.run([sys.executable, "-c", SHOW], env=variables, capture_output=True, text=True)


def test_torch_on_request(tmp_path: Path) -> None:
    done = show(tmp_path, ECO_KERNELS="torch")
    assert "CausalAttention" not in done.stdout and "ScaledDotProduct" in done.stdout
    assert not (tmp_path / "cache").exists() and "no C++ kernels" not in done.stderr


def test_cpp_is_compiled_once_into_the_cache(tmp_path: Path, cpp: None) -> None:
    assert "CausalAttention" in show(tmp_path).stdout
    (library,) = (tmp_path / "cache" / "kernels").iterdir()
    written = library.stat().st_mtime_ns
    assert "CausalAttention" in show(tmp_path).stdout
    assert library.stat().st_mtime_ns == written


def test_a_damaged_library_is_compiled_again(tmp_path: Path, cpp: None) -> None:
    show(tmp_path)
    (library,) = (tmp_path / "cache" / "kernels").iterdir()
    library.write_bytes(b"garbage")
    again = show(tmp_path)
    assert "CausalAttention" in again.stdout and "no C++ kernels" not in again.stderr


def test_without_a_working_compiler_there_is_one_warning(tmp_path: Path, cpp: None) -> None:
    broken = tmp_path / "c++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo no such flag >&2; exit 3; }\n')
    broken.chmod(0o755)
    done = show(tmp_path, CXX=str(broken))
    assert "ScaledDotProduct" in done.stdout
    assert done.stderr.count("no C++ kernels") == 1 and "no such flag" in done.stderr
    done = show(tmp_path, CXX=str(broken), ECO_KERNELS="cpp")
    assert done.returncode != 0 and "ECO_KERNELS=cpp" in done.stderr and "no such flag" in done.stderr


def test_a_library_that_fails_its_check_is_not_used(tmp_path: Path, cpp: None) -> None:
    empty = tmp_path / "c++"
    empty.write_text('#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done\n')
    empty.chmod(0o755)
    done = show(tmp_path, CXX=str(empty))
    assert "ScaledDotProduct" in done.stdout and "failed their check" in done.stderr
    assert list((tmp_path / "cache" / "kernels").iterdir()) == []


def test_an_unknown_wish_is_an_error(tmp_path: Path) -> None:
    done = show(tmp_path, ECO_KERNELS="fast")
    assert done.returncode != 0 and "'fast'" in done.stderr


@pytest.mark.parametrize("causal", [True, False])
def test_same_bits_from_run_to_run_and_for_any_number_of_threads(causal: bool, cpp: None) -> None:
    x = torch.randn(2, 130, 3 * 64, generator=torch.Generator().manual_seed(0))
    weight = torch.ones(3 * 64, requires_grad=True)

    def gradients() -> list[torch.Tensor]:
        leaf = x.bfloat16().requires_grad_()
        mixed = packed_attention(rms_norm(leaf, weight, 1e-5), heads=2, kv_heads=2, causal=causal)
        add_unit_rms_norm(mixed, leaf[..., :64], 1e-5).pow(3).sum().backward()
        found = [leaf.grad, weight.grad]
        weight.grad = None
        return [g for g in found if g is not None]

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        first = gradients()
        torch.set_num_threads(1)
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True)) and len(first) == 2
    finally:
        torch.set_num_threads(threads)


def test_dropout_and_compilation_take_plain_torch(cpp: None) -> None:
    x = torch.randn(1, 2, 64, 32, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    assert "CausalAttention" in type(causal_attention(x, x, x).grad_fn).__name__
    assert "CausalAttention" not in type(causal_attention(x, x, x, dropout=0.5).grad_fn).__name__
    seen: list[bool] = []

    def traced(y: torch.Tensor) -> torch.Tensor:
        seen.append(native.usable(y))
        return y + 1

    torch.compile(traced, backend="eager", fullgraph=False)(x)
    assert seen == [False]


def test_checkpointing_and_no_grad_agree_with_the_plain_call(cpp: None) -> None:
    x = torch.randn(1, 70, 3 * 64, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    y = packed_attention(x, 2, 2)
    y.sum().backward()
    expected, x.grad = x.grad, None
    again = checkpoint(packed_attention, x, 2, 2, use_reentrant=False)
    assert isinstance(again, torch.Tensor) and torch.equal(again, y)
    again.sum().backward()
    assert x.grad is not None and expected is not None and torch.equal(x.grad, expected)
    with torch.no_grad():
        assert torch.equal(packed_attention(x, 2, 2), y)


def test_norms_answer_in_the_dtype_of_autocast() -> None:
    x, weight = torch.ones(2, 8), torch.ones(8)
    assert rms_norm(x, weight, 1e-5).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert rms_norm(x, weight, 1e-5).dtype == torch.bfloat16
