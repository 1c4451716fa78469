"""Packs a trained language model: `models_for_download/NAME_model.tar.gz`, with all that its validation needs."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

import eco
from eco import recipe as recipes
from eco.data.prepare import Prepared, prepare
from eco.data.tokenizer import TokenizerConfig
from eco.evaluation.held_out import gathered, held_out_loss, spread
from eco.files import sync_folder
from eco.jobs.language import text_of
from eco.jobs.load import Trained, load_language
from eco.jobs.provenance import provenance, without_folders
from eco.models import huggingface
from eco.models.contract import IGNORE
from eco.models.huggingface.tokenizer_files import save_tokenizer
from eco.observe.metrics import Row, read_metrics
from eco.observe.plots import draw_curves
from eco.observe.run import RunPaths, existing_run
from eco.recipe import Recipe
from eco.ship import bundle as layout
from eco.ship.archive import SUFFIX, write_archive
from eco.ship.bundle import Facts, write_tensors
from eco.ship.card import card
from eco.ship.instructions import write_instructions
from eco.ship.manifest import is_bundle, write_manifest
from eco.ship.probe import Probe, machine_kind
from eco.tasks.puzzles.contract import PuzzleConfig
from eco.training.precision import Precision

DOWNLOADS = "models_for_download"

PROMPTS, PROMPT_TOKENS = 6, 16
"""What validation lets the model continue: the recipe's prompts, then pieces of the held-out windows."""

_BATCH = 8
"""Windows measured at a time, where training left no figure."""


def pack(run: str | Path, folder: str | Path = DOWNLOADS, checkpoint: str | int = "best") -> Path:
    """Packs one checkpoint of a run into `folder` and lists it in DOWNLOAD_INSTRUCTIONS.md there; returns the archive.

    Two packs of one checkpoint on one machine are equal byte for byte. A pack that is killed leaves the archive that
    was there before, and a hidden folder, which the next one removes.

    Raises:
        ValueError: a folder that cannot be written to; else see `bundle`.
    """
    name, target = Path(os.path.abspath(run)).name, Path(os.path.abspath(folder))
    with _workshop(target / f".{name}.packing") as work:
        archive = work / f"{name}{SUFFIX}"
        write_archive(bundle(run, work / name, checkpoint), archive)
        os.replace(archive, target / archive.name)
    sync_folder(target)
    write_instructions(target)
    return target / archive.name


def bundle(run: str | Path, folder: Path, checkpoint: str | int = "best") -> Path:
    """Writes the bundle of one checkpoint as `folder`, which is made, and returns it.

    Raises:
        ValueError: no such run or checkpoint, a run on puzzles, or its data are no longer those it was trained on.
    """
    paths = existing_run(run)
    if is_bundle(paths.path):
        raise ValueError(f"{run} is a bundle already; `eco pack` takes the run that it was made of")
    if isinstance(recipes.load(str(paths.recipe)).data, PuzzleConfig):
        raise ValueError(f"{run} trained on puzzles; what can be packed are language models")
    trained = load_language(run, checkpoint, "cpu")
    data = _data_of(trained, paths)
    windows = _windows(trained, data)
    rows = read_metrics(paths.metrics)
    folder.mkdir(parents=True)
    write_tensors(folder / layout.MODEL, trained.model.state_dict())
    trained.tokenizer.save(folder / layout.TOKENIZER)
    recipes.save(_portable(trained.recipe), folder / layout.RECIPE)
    write_tensors(folder / layout.HELD_OUT, windows)
    write_tensors(folder / layout.PROBE, Probe.of(trained.model, windows["tokens"][:1]).tensors())
    (folder / layout.HISTORY).write_text(json.dumps(rows, allow_nan=False, separators=(",", ":")), encoding="utf-8")
    draw_curves(rows, folder / layout.PLOTS)
    for_transformers = trained.recipe.model.family == "gpt2"  # the format in which this family is handed around
    if for_transformers:
        _write_for_transformers(trained, folder / layout.HUGGINGFACE)
    facts = _facts(folder.name, trained, paths, str(checkpoint), data, windows, rows)
    facts.write(folder)
    (folder / layout.CARD).write_text(card(facts, for_transformers), encoding="utf-8")
    write_manifest(folder)
    return folder


def _data_of(trained: Trained, paths: RunPaths) -> Prepared:
    """The run's data, which must still be what it was trained on: others would have other held-out windows."""
    data = prepare(text_of(trained.recipe), TokenizerConfig(path=str(paths.tokenizer)))
    found = " ".join(store.folder.name for store in data.stores)
    if found != _conditions(paths).get("data"):
        raise ValueError(
            f"the data of {paths.path} are not those it was trained on, so that what was held out is not known; put "
            "them back as they were"
        )
    return data


def _conditions(paths: RunPaths) -> dict[str, str]:
    conditions: dict[str, str] = json.loads(paths.integrity_manifest.read_text(encoding="utf-8"))["conditions"]
    return conditions


def _windows(trained: Trained, data: Prepared) -> dict[str, Tensor]:
    """Tokens and targets of the windows that training measured its held-out loss on."""
    parts = data.held_out(trained.model.config.context)
    whole = gathered(spread(parts, _BATCH, trained.recipe.train.eval_windows))
    return {name: whole[name] for name in ("tokens", "targets")}


def _facts(
    name: str,
    trained: Trained,
    paths: RunPaths,
    checkpoint: str,
    data: Prepared,
    windows: Mapping[str, Tensor],
    rows: list[Row],
) -> Facts:
    improved = checkpoint.startswith("improve")  # its steps are the loop's, of which metrics.jsonl knows nothing
    recorded = {} if improved else _recorded(rows, trained.step, int((windows["targets"] != IGNORE).sum()))
    source = f"Recorded by training at step {trained.step}."
    if not recorded:
        recorded = _measured(trained, windows)
        source = (
            "Measured when the model was packed, in fp32: training did not measure these windows at this checkpoint."
        )
    return Facts(
        name=name,
        family=trained.recipe.model.family,
        checkpoint=checkpoint,
        step=trained.step,
        averaged=trained.recipe.train.ema_decay > 0 and not improved,
        vocabulary=trained.tokenizer.vocab_size,
        context=trained.model.config.context,
        parameters=trained.model.parameter_table(),
        held_out=recorded,
        held_out_source=source,
        prompts=_prompts(trained, windows["tokens"]),
        data={**provenance(text_of(trained.recipe), data.report), "held_out_windows": len(windows["tokens"])},
        made_with={
            "eco": eco.__version__,
            "torch": torch.__version__,
            "precision": _conditions(paths)["precision"],
            "machine": machine_kind(),
        },
    )


def _recorded(rows: list[Row], step: int, tokens: int) -> dict[str, float]:
    """The held-out figures in the row of a step, if that was evaluated, and on as many tokens as are packed: a run that
    went on with another `eval_windows` has rows of other windows."""
    row = next((row for row in reversed(rows) if row["step"] == step and row.get("val_tokens") == tokens), {})
    return {name: value for name, value in row.items() if name.startswith("val_") and value is not None}


def _measured(trained: Trained, windows: Mapping[str, Tensor]) -> dict[str, float]:
    starts = range(0, len(windows["tokens"]), _BATCH)
    batches = [{name: tensor[at : at + _BATCH] for name, tensor in windows.items()} for at in starts]
    lengths = torch.from_numpy(trained.tokenizer.token_lengths)
    return held_out_loss(trained.model, batches, lengths, Precision("fp32", torch.device("cpu")))


def _prompts(trained: Trained, tokens: Tensor) -> tuple[str, ...]:
    """Six texts that the model has room to continue."""
    context, encode = trained.model.config.context, trained.tokenizer.encode
    own = [prompt for prompt in trained.recipe.prompts if 0 < len(encode(prompt)) <= context // 2]
    length = max(1, min(PROMPT_TOKENS, context // 2))
    pieces = [piece for row in tokens for piece in row[: len(row) // length * length].view(-1, length).tolist()]
    texts = list(filter(str.strip, map(trained.tokenizer.decode, pieces)))  # some of the last window may be padding
    return tuple([*own, *texts[:: max(1, len(texts) // PROMPTS)]][:PROMPTS])


def _portable(recipe: Recipe) -> Recipe:
    """Without folders of this machine: they mean nothing elsewhere, and tell whose it was."""
    moved = {
        "data": without_folders(text_of(recipe)),
        "tokenizer": recipe.tokenizer.model_copy(update={"path": layout.TOKENIZER if recipe.tokenizer.path else None}),
        "checkpoint": recipe.checkpoint.model_copy(update={"directory": None}),
    }
    return recipe.model_copy(update={**moved, "output_dir": None, "init_from": None})


def _write_for_transformers(trained: Trained, folder: Path) -> None:
    huggingface.save(trained.model, folder, trained.tokenizer.eos)
    save_tokenizer(trained.tokenizer, trained.model.config.context, folder)


@contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """An empty folder, beside the place of what is made in it, that is gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder.parent} ({error.strerror}); name another folder with --to"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
