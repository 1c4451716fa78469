"""What a run may demand of its machine: it stops at the start instead of training slowly for a week."""

import torch

from eco.kernels import native, triton
from eco.training.config import TrainConfig


def check_requirements(config: TrainConfig, device: torch.device) -> None:
    """Does nothing where `device` gives what `require_cuda` and `require_triton` ask for.

    Raises:
        ValueError: it does not; the message says what is missing and how to go on without it.
    """
    if config.require_cuda and device.type != "cuda":
        lack = "torch sees no CUDA device (install a CUDA build of torch and the GPU's driver; see `eco doctor`)"
        found = f"device is {config.device}" if torch.cuda.is_available() else lack
        raise ValueError(f"train.require_cuda: {found}; set --device cuda, or --no-require-cuda to train on a CPU")
    if config.require_triton and not triton.serves(device.type):
        named = native.wish() or "unset"
        lack = triton.missing() or f"Triton does not work on {device.type} tensors while ECO_KERNELS is {named}"
        raise ValueError(f"train.require_triton: {lack}; --no-require-triton trains with other kernels")
