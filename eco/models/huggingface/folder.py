"""The files of a saved `transformers` model."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eco.files import sync_folder, write_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises ValueError where it is missing or no JSON object."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} holds no {CONFIG}, so it is not a saved transformers model")
    return _read_json(path)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder, from one file or from shards, as fp32 on the CPU.

    Raises:
        ValueError: there are none, or a file is damaged.
    """
    if (folder / WEIGHTS).is_file():
        names = [WEIGHTS]
    elif (folder / INDEX).is_file():
        names = sorted(set(_read_json(folder / INDEX)["weight_map"].values()))
    else:
        raise ValueError(f"there is no {WEIGHTS}; of other formats, save it again by save_pretrained of transformers")
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            tensors |= load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{name} cannot be read ({error}); copy the folder anew") from error
    return {name: tensor.float() for name, tensor in tensors.items()}


def write_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Writes all tensors into one file, whole or not at all."""
    temporary = folder / f".{WEIGHTS}.{os.getpid()}.tmp"
    try:
        save_file(tensors, temporary, metadata={"format": "pt"})  # transformers refuses a file without this
        os.replace(temporary, folder / WEIGHTS)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Writes config.json, whole or not at all."""
    write_json(folder / CONFIG, config)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); copy the folder anew") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object; copy the folder anew")
    return value
