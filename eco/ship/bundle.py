"""The layout of a bundle: one folder with all that a trained language model needs, and what its validation needs.

model.safetensors      the weights that evaluation used, fp32
tokenizer.json         of the `tokenizers` library
recipe.yaml            what it was trained with, without folders of the machine it was trained on
facts.json             `Facts`
probe.safetensors      what the packed model said to one window, see `eco.ship.probe`
held_out.safetensors   tokens, targets (N, T) int64: the windows of the recorded loss
history.json           the rows of metrics.jsonl
plots/                 their curves
README.md              the model card
huggingface/           a gpt2 once more, as transformers reads it
MANIFEST.json          see `eco.ship.manifest`
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eco.files import write_json
from eco.ship.manifest import Damaged
from eco.training.tree import separate

MODEL, TOKENIZER, RECIPE, FACTS = "model.safetensors", "tokenizer.json", "recipe.yaml", "facts.json"
PROBE, HELD_OUT = "probe.safetensors", "held_out.safetensors"
HISTORY, PLOTS, CARD, HUGGINGFACE = "history.json", "plots", "README.md", "huggingface"


@dataclass(frozen=True)
class Facts:
    """What a packed model is, and what its validation compares with.

    checkpoint: which of the run's it is, `step` its optimizer steps; averaged: its weights are means over steps.
    parameters: component -> trainable parameters.
    held_out: the figures of `eco.evaluation.held_out`, `val_loss` in nats a token; held_out_source: who measured them.
    prompts: what validation lets it continue.
    data: names, sources, licence and sizes of what it was trained on; made_with: versions, and the `machine` it was
        packed on.
    """

    name: str
    family: str
    checkpoint: str
    step: int
    averaged: bool
    vocabulary: int
    context: int
    parameters: Mapping[str, int]
    held_out: Mapping[str, float]
    held_out_source: str
    prompts: tuple[str, ...]
    data: Mapping[str, Any]
    made_with: Mapping[str, str]

    def write(self, folder: Path) -> None:
        write_json(folder / FACTS, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Facts":
        """Raises Damaged where the file does not hold them."""
        try:
            fields = json.loads((folder / FACTS).read_text("utf-8"))
            return cls(**{**fields, "prompts": tuple(fields["prompts"])})
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise Damaged(f"{folder / FACTS} cannot be read: {error!r}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors from any device; tied ones are written twice."""
    plain = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    save_file(separate(plain), path, metadata={"format": "pt"})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Raises Damaged where the file does not hold any."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise Damaged(f"{path} cannot be read: {error}") from error
