"""Which dtype each phase of work computes in on this machine, and why."""

from typing import TYPE_CHECKING, NamedTuple

from eco.machine.hardware import instruction_sets

if TYPE_CHECKING:
    import torch


class DtypeChoice(NamedTuple):
    """A compute dtype ("bf16" or "fp32") and the reason for it in words."""

    dtype: str
    reason: str


def training_dtype(device: "torch.device | str") -> DtypeChoice:
    """The dtype of matrix products in training: bf16 where the device multiplies it in hardware, else fp32."""
    import torch

    if torch.device(device).type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return DtypeChoice("bf16", "the GPU multiplies bf16 in hardware")
        return DtypeChoice("fp32", "the GPU has no bf16 units")
    sets = instruction_sets()
    if "amx" in sets:
        return DtypeChoice("bf16", "AMX multiplies bf16 at several times the fp32 rate")
    if "avx512_bf16" in sets:
        return DtypeChoice("bf16", "AVX512-BF16 multiplies bf16 at several times the fp32 rate")
    return DtypeChoice("fp32", "this processor has neither AMX nor AVX512-BF16")


def decoding_dtype(device: "torch.device | str") -> DtypeChoice:
    """The dtype of text generation: bf16 on a GPU that has it, fp32 on a CPU."""
    import torch

    if torch.device(device).type == "cuda":
        return training_dtype(device)
    return DtypeChoice("fp32", "CPUs do matrix-vector products in bf16 at half the fp32 rate (measured)")
