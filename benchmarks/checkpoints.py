"""Saving and loading 100 M fp32 parameters with Adam's state (1.2 GB): Eco beside bare safetensors and torch.save.

All sync their files to the disk. Loading means that the values lie in the tensors they are for; Eco checks its digests
in that time. The files lie in the folder for temporary files; reads come from the system's page cache.
"""

import os
import shutil
import tempfile
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import limits
from benchmarks.measure import Row, alternate, seconds
from eco.training.checkpoint import Checkpoints

LAYERS, LAYER_PARAMETERS = 100, 1 << 20

State = dict[str, dict[str, Tensor]]
"""part -> name -> tensor."""


def rows(rounds: int = 5) -> list[Row]:
    """GB/s over the whole state, saving and loading; the peer is bare safetensors."""
    names = [f"layer{i}.{kind}" for i in range(LAYERS) for kind in ("exp_avg", "exp_avg_sq")]
    state: State = {
        "model": {f"layer{i}.weight": torch.rand(LAYER_PARAMETERS) for i in range(LAYERS)},
        "optimizer": {name: torch.rand(LAYER_PARAMETERS) for name in names},
    }
    gigabytes = sum(t.nbytes for part in state.values() for t in part.values()) / 1e9
    with tempfile.TemporaryDirectory() as folder:
        candidates = _Candidates(Path(folder), state)
        saving = {
            "save: eco": lambda: gigabytes / candidates.save_eco(),
            "save: safetensors": lambda: gigabytes / candidates.save_safetensors(),
            "save: torch.save": lambda: gigabytes / candidates.save_torch(),
        }
        loading = {
            "load: eco": lambda: gigabytes / seconds(candidates.load_eco),
            "load: safetensors": lambda: gigabytes / seconds(candidates.load_safetensors),
            "load: torch.load": lambda: gigabytes / seconds(candidates.load_torch),
        }
        samples = alternate({**saving, **loading, "copy": lambda: limits.copy_bandwidth() / 1e9}, rounds)
    middle = {name: median(values) for name, values in samples.items()}
    return [
        Row(
            f"checkpoint {name}",
            middle[name],
            "GB/s",
            limit_ratio=2 * middle[name] / middle["copy"],
            limit_name="copy",
            peer_ratio=middle[name] / middle[name.replace("eco", "safetensors")] if "eco" in name else None,
            note=f"{gigabytes:.2f} GB",
        )
        for name in [*saving, *loading]
    ]


class _Candidates:
    """Each way of writing `state` below `folder`, and of reading it back into `state`.

    The `save_` functions return seconds. What they wrote the time before is removed first and not timed, so that all
    write into an empty place.
    """

    def __init__(self, folder: Path, state: State) -> None:
        self.state = state
        self.eco, self.plain, self.pickled = (folder / name for name in ("eco", "plain", "pickled"))

    def save_eco(self) -> float:
        shutil.rmtree(self.eco, ignore_errors=True)
        return seconds(lambda: Checkpoints(self.eco).save(1, self.state))

    def save_safetensors(self) -> float:
        _make_empty(self.plain)

        def save() -> None:
            for name, tensors in self.state.items():
                save_file(tensors, self.plain / f"{name}.safetensors")
                _sync(self.plain / f"{name}.safetensors")

        return seconds(save)

    def save_torch(self) -> float:
        _make_empty(self.pickled)

        def save() -> None:
            torch.save(self.state, self.pickled / "state.pt")
            _sync(self.pickled / "state.pt")

        return seconds(save)

    def load_eco(self) -> None:
        loaded = Checkpoints(self.eco).load_newest()
        assert loaded is not None
        self._into_place(loaded.parts)

    def load_safetensors(self) -> None:
        self._into_place({name: load_file(self.plain / f"{name}.safetensors") for name in self.state})

    def load_torch(self) -> None:
        self._into_place(torch.load(self.pickled / "state.pt", weights_only=True, mmap=True))

    def _into_place(self, found: State) -> None:
        for part, tensors in self.state.items():
            for name, tensor in tensors.items():
                tensor.copy_(found[part][name])


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _sync(path: Path) -> None:
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
