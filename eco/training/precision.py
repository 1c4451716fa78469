"""The compute dtype of training: what `auto` means on this machine, the autocast context, the scaler fp16 needs."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from eco import machine

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one.

    Raises:
        ValueError: `cuda` was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError(
            "device: cuda was asked for, but torch sees no CUDA device; use --device cpu, or see `eco doctor`"
        )
    return torch.device("cuda" if name != "cpu" and available else "cpu")


class Precision:
    """Autocast for the forward pass and, for fp16 only, loss scaling (Micikevicius et al., arXiv 1710.03740)."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = machine.training_dtype(device.type)[0] if name == "auto" else name
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.name == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass; does nothing in fp32."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.name])
