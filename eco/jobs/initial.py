"""Weights that a run starts from instead of drawing its own: those of another run, or of a file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eco.jobs.load import load
from eco.models.contract import Model


def start_from(model: Model, source: Path) -> str:
    """Takes over the tensors of `source` that `model` has by the same name and shape; the others stay as drawn.

    source: a run directory, whose best checkpoint counts, with averaged weights where it kept them; or a safetensors
    file, such as `step_00000100/model.safetensors` of a checkpoint.

    Returns what was taken over, in one line.

    Raises:
        ValueError: there are no weights, or none of them fits.
    """
    given = _read(source)
    own = model.state_dict()
    fitting = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise ValueError(
            f"--init-from {source}: none of its {len(given)} tensors has name and shape of one of this model's "
            f"{len(own)} ({_example(given)} there, {_example(own)} here); take weights of the same architecture"
        )
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)
    model.weights_changed()
    left = [name for name in own if name not in fitting]
    drawn = f"; drawn anew: {', '.join(left[:3])}{' ...' if len(left) > 3 else ''}" if left else ""
    return f"initial weights from {source}: {len(fitting)} of {len(own)} tensors{drawn}"


def _read(source: Path) -> Mapping[str, Tensor]:
    if source.is_dir():
        return load(source, device="cpu").model.state_dict()
    try:
        return load_file(source)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"--init-from {source}: cannot read it ({error}); give a run directory or a safetensors file"
        ) from error


def _example(tensors: Mapping[str, Tensor]) -> str:
    """The first tensor by name and shape."""
    return next((f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()), "nothing")
