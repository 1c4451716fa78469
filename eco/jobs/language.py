"""A run that trains a language model on text."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from eco.data.prepare import Prepared, TextConfig, prepare
from eco.data.tokenizer import Tokenizer, TokenizerConfig
from eco.evaluation.auxiliary import auxiliary_figures
from eco.evaluation.held_out import Unmeasured, held_out_loss, spread
from eco.inference.engine import Engine
from eco.jobs.work import Work
from eco.models.contract import Batch, LanguageModel, LanguageModelConfig, build_model
from eco.models.governance.objectives import AuxiliaryConfig
from eco.models.instant import InstantConfig, apply_instant
from eco.observe.run import RunPaths
from eco.plugins import find
from eco.recipe import Recipe
from eco.training.callbacks import Row
from eco.training.precision import Precision


class LanguageWork(Work):
    """The corpus as token stores, and a language model over its tokenizer."""

    model: LanguageModel
    decisive = ("val_loss",)

    def __init__(
        self, recipe: Recipe, tokenizer: TokenizerConfig, device: torch.device, say: Callable[[str], None]
    ) -> None:
        """
        tokenizer: that of the recipe, or the file of a resumed run, which keeps its own whatever the corpus is now.

        Raises:
            ValueError: the corpus, the tokenizer or the model's sizes cannot be used.
        """
        self._recipe = recipe
        self._data = prepare(text_of(recipe), tokenizer, say=say)
        self.model = language_model(recipe, self._data.tokenizer, device)
        context, labels = self.model.config.context, self.model.labels
        self._stream = self._data.stream(context)
        self._samples = self._data.labelled_stream(context, labels, text_of(recipe).weighting)
        _check_classes(self.model.config, self._data, labels)
        self._held_out = self._data.held_out(context)
        control, others = labels & {"control"}, labels - {"control"}
        self._controlled = self._data.labelled_held_out(context, control) if control else []
        self._auxiliary = self._data.labelled_held_out(context, others) if others else []

    @property
    def content(self) -> str:
        return _content(self._data)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._data.tokenizer

    def check_batch(self, count: int) -> None:
        self._stream.check_batch(count)

    def batch(self, index: int, count: int) -> Batch:
        return self._samples.batch(index, count)

    def measure(self, rows: int, precision: Precision) -> Row:
        """The loss is that of the text alone; with the metadata of the documents it is `val_loss_controlled`."""
        count, lengths = self._recipe.train.eval_windows, torch.from_numpy(self._data.tokenizer.token_lengths)
        row: Row = {**held_out_loss(self.model, spread(self._held_out, rows, count), lengths, precision)}
        if self._controlled:
            told = held_out_loss(self.model, spread(self._controlled, rows, count), lengths, precision)
            row["val_loss_controlled"] = told["val_loss"]
        if self._auxiliary:
            row |= auxiliary_figures(self.model, spread(self._auxiliary, rows, count), precision)
        return row

    def unmeasured(self, count: int) -> Unmeasured:
        """The held-out windows that `measure` leaves, `count` of which are wanted at once.

        Raises:
            ValueError: there are fewer.
        """
        left = Unmeasured(self._held_out, self._recipe.train.eval_windows, self._recipe.train.seed)
        if len(left) < count:
            raise ValueError(
                f"c3o credit is measured on {count} held-out windows that evaluation leaves, and it leaves {len(left)} "
                f"of {sum(map(len, self._held_out))}; lower --eval-windows (0 takes all) or credit.windows, give more "
                "text or a larger data.held_out, or set --no-c3o-credit-enabled"
            )
        return left

    def fit(self) -> dict[str, Any]:
        return {
            "model": self.model.config.fit(),
            "tokenizer": self._data.tokenizer.digest,
            "optimizer": self._recipe.optimizer.name,
            "precision_scaler": self._recipe.train.precision == "fp16",
        }

    def describe(self, run: RunPaths) -> list[Path]:
        self._data.tokenizer.save(run.tokenizer)
        return [run.tokenizer]

    def samples(self, run: RunPaths, step: int) -> list[str]:
        """Continues the recipe's prompts."""
        prompts = self._recipe.prompts
        if not prompts:
            return []
        completions = Engine(self.model, self._data.tokenizer).generate(prompts, self._recipe.sampling)
        texts = [prompt + rows[0].text for prompt, rows in zip(prompts, completions, strict=True)]
        file = run.samples / f"step_{step:08d}.txt"
        file.write_text("\n\n----\n\n".join(texts) + "\n", encoding="utf-8")
        return texts

    def headline(self, before: Row, after: Row) -> str:
        first, last = before["val_bits_per_byte"], after["val_bits_per_byte"]
        return f"held-out bits per byte: {first:.3f} before training, {last:.3f} after"

    def next_command(self, run: Path) -> str:
        prompt = self._recipe.prompts[0] if self._recipe.prompts else "In the beginning"
        return f"eco generate {run} --prompt {shlex.quote(prompt)}"


def text_of(recipe: Recipe) -> TextConfig:
    """The recipe's data, which must be text for a language model.

    Raises:
        ValueError: they are puzzles.
    """
    if not isinstance(recipe.data, TextConfig):
        raise ValueError(
            f"model.family {recipe.model.family} is a language model and data.puzzle names puzzles; "
            "take a model of puzzles, such as trm, or leave data.puzzle out"
        )
    return recipe.data


def data_of_run(recipe: Recipe, run: RunPaths) -> Prepared:
    """The data of a trained model, which must still be what it was trained on: others hold out other text.

    Raises:
        ValueError: they are not, or are puzzles.
    """
    data = prepare(text_of(recipe), TokenizerConfig(path=str(run.tokenizer)))
    manifest = json.loads(run.integrity_manifest.read_text(encoding="utf-8"))
    if _content(data) != manifest["conditions"]["data"]:
        raise ValueError(
            f"the data of {run.path} are not those it was trained on, so that what was held out is not known; put "
            "them back as they were"
        )
    return data


def language_model(recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> LanguageModel:
    """The recipe's model with its initial weights; `vocab_size: 0` becomes the tokenizer's.

    Raises:
        ValueError: the vocabulary is too small for the tokenizer, or the architecture is no language model; or INSTANT
            is to work together with what it cannot.
    """
    config = recipe.model
    if not isinstance(config, LanguageModelConfig):
        raise ValueError(f"model.family {config.family} is not a language model; name its puzzles in data.puzzle")
    if isinstance(config, InstantConfig) and config.instant_enabled:
        if recipe.train.compile:
            raise ValueError("INSTANT's backward pass runs blocks by hand and train.compile compiles them; take one")
        if recipe.train.gradient_checkpointing:
            raise ValueError("train.gradient_checkpointing and INSTANT both save activations; take one of them")
    config = config.for_tokenizer(tokenizer.vocab_size, tokenizer.eos)
    if config.vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"model.vocab_size is {config.vocab_size}, but the tokenizer has {tokenizer.vocab_size} tokens; "
            "raise it, or leave it at 0 to take the tokenizer's"
        )
    model = build_model(find("models", config.family).build, config, recipe.train.seed, device)
    assert isinstance(model, LanguageModel), "a LanguageModelConfig builds a LanguageModel"
    apply_instant(model)
    return model


def _content(data: Prepared) -> str:
    """Names the tokens of the data."""
    return " ".join(store.folder.name for store in data.stores)


def _check_classes(config: LanguageModelConfig, data: Prepared, labels: frozenset[str]) -> None:
    """The heads that name a document or its category must have a class for each.

    Raises:
        ValueError: they have fewer.
    """
    if not isinstance(config, AuxiliaryConfig):
        return
    tables = [table for facts in data.facts if facts for table in (facts.training, facts.held_out)]
    for label, field in {"document": "books", "category": "genres"}.items():
        needed = int(max((table[label].max() for table in tables), default=0)) + 1 if label in labels else 0
        if needed > getattr(config, field):
            raise ValueError(f"model.{field} is {getattr(config, field)}, but the library needs {needed}; raise it")
