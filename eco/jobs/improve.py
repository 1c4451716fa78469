"""Improves a trained language model: rounds of the loop on one checkpoint of a run, the method and its controls."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from eco import flags, machine
from eco import recipe as recipes
from eco.data.tokenizer import TokenizerConfig
from eco.files import write_json
from eco.improvement.arms import RESULT, Arm, read_arms
from eco.improvement.config import Control, ImproveConfig
from eco.improvement.curve import draw_curve
from eco.improvement.head import HEAD, START, Head
from eco.improvement.loop import Loop, NothingPasses
from eco.improvement.start import copy_start
from eco.jobs.language import LanguageWork, text_of
from eco.jobs.load import load_language
from eco.jobs.loop import open_loop
from eco.jobs.train import train_recipe, was_stopped
from eco.observe.run import RunDirectory, existing_run
from eco.recipe import Recipe
from eco.training.precision import Precision

log = logging.getLogger(__name__)

CONTROLS: tuple[Control, ...] = ("random-reward", "more-pretraining", "frozen")

SETTINGS = "settings.json"

_FREE = {"rounds", "minutes", "patience", "start_after_steps", "generation_interval"}
"""Settings that may change when an arm goes on: how far it goes, and what only training reads."""


@dataclass(frozen=True)
class Improved:
    """What the loop leaves behind. arms: this and all others of the run, the method first. curve: the picture."""

    run: Path
    folder: Path
    arms: Sequence[Arm]
    curve: Path


def improve(
    name: str, overrides: Mapping[str, Any] | None = None, *, controls: Sequence[Control] = (), quiet: bool = True
) -> Improved:
    """Improves a run, or a recipe that is trained first: `eco.improve("runs/demo", {"improve.rounds": 2})`.

    Goes on where the folder of the run's loop stands. controls: also run, after the method, by the same settings.

    Raises:
        ValueError: the run, the settings, the tasks or the sandbox cannot be used; nothing passes; a canary passed.
    """
    return improve_recipe(
        *open_run(name, flags.from_mapping(overrides or {}), quiet=quiet), controls=controls, quiet=quiet
    )


def open_run(name: str, given: Sequence[flags.Flag], *, quiet: bool) -> tuple[Path, Recipe]:
    """The run directory with its recipe under the given flags; a recipe's run is trained, or finished, first.

    Raises:
        ValueError: no such run or recipe, or flags that would change what was trained.
    """
    if not (Path(name) / "recipe.yaml").is_file():
        recipe = recipes.load(name, given)
        text_of(recipe)
        trained = train_recipe(recipe, name, quiet=quiet)
        if was_stopped(trained.reason):
            raise ValueError(f"the training was stopped ({trained.reason}); the same command goes on with it")
        return trained.run, recipe
    own, wanted = recipes.load(name), recipes.load(name, given)
    changed = [key for (key, _, old), (_, _, new) in zip(recipes.settings(own), recipes.settings(wanted), strict=True)
               if old != new and not key.startswith("improve.")]  # fmt: skip
    if changed:
        raise ValueError(
            f"{name} is trained already, and only settings of the loop can be changed, not {', '.join(changed)}; train "
            "another run with these first"
        )
    return Path(name).absolute(), wanted


def improve_recipe(run: Path, recipe: Recipe, *, controls: Sequence[Control] = (), quiet: bool = False) -> Improved:
    """The method, or the control that the recipe names, and then `controls` for as many rounds; see `improve`."""
    config = recipe.improve
    rounds = _run_arm(run, recipe, config, quiet)
    for control in controls:
        if control != config.control:
            as_much = {"control": control, "rounds": rounds, "minutes": None}
            _run_arm(run, recipe, config.model_copy(update=as_much), quiet)
    arms = read_arms(run)
    return Improved(run, run / folder_of(config), arms, draw_curve([arm.folder for arm in arms], run / "improve.png"))


def folder_of(config: ImproveConfig) -> str:
    """The folder of an arm in its run directory: `improve`, `improve-random-reward`, `improve-seed-1`."""
    parts = ["improve"]
    parts += [config.control] if config.control != "none" else []
    parts += [f"seed-{config.seed}"] if config.seed else []
    return "-".join(parts)


def _run_arm(run: Path, recipe: Recipe, config: ImproveConfig, quiet: bool) -> int:
    """One arm from its start, or from where it was stopped, to its figures. Returns how many rounds it has."""
    machine.prepare()
    folder = run / folder_of(config)
    with RunDirectory(run), ExitStack() as closing:
        say = _teller(folder.name, quiet)
        trained = load_language(run)
        precision = Precision(recipe.train.precision, next(trained.model.parameters()).device)
        work = LanguageWork(recipe, TokenizerConfig(path=str(existing_run(run).tokenizer)), precision.device, say)
        work.model.load_state_dict(trained.model.state_dict())
        _keep_settings(folder, config, trained.step)
        _share_start(run, folder)
        loop = open_loop(config, work, recipe, precision, folder, closing, say)
        loop.begin()
        _make_rounds(loop)
        result = loop.result()
        write_json(folder / RESULT, result)
        return int(result["rounds"])


def _make_rounds(loop: Loop) -> None:
    """All rounds that are left. Where nothing passes any more it ends with what it has reached.

    Raises:
        NothingPasses: in the first round.
    """
    while not loop.is_done:
        try:
            loop.round()
        except NothingPasses as error:
            if loop.state_dict()["round"] == 0:
                raise
            loop.say(str(error))
            return


def _teller(name: str, quiet: bool) -> Callable[[str], None]:
    console = Console(soft_wrap=True, highlight=False, quiet=quiet)

    def say(text: str) -> None:
        console.print(f"{name}: {text}", markup=False)
        log.info("%s: %s", name, text)

    return say


def _keep_settings(folder: Path, config: ImproveConfig, step: int) -> None:
    """Writes down what the arm is made with; refuses to go on with other settings once a round is done. Before that
    there is nothing but a start, which is begun anew.

    Raises:
        ValueError: the folder was begun with others; the message names them.
    """
    folder.mkdir(exist_ok=True)
    own = {"checkpoint": step, **dict(_dotted(config.model_dump(mode="json")))}
    if not (folder / SETTINGS).exists():
        write_json(folder / SETTINGS, own)
        return
    old = _read_settings(folder)
    changed = [f"{name} {old.get(name)}, now {own.get(name)}" for name in sorted(own.keys() | old.keys())
               if own.get(name) != old.get(name) and name not in _FREE]  # fmt: skip
    head = Head.read(folder / HEAD)
    if changed and (head is None or head.round == 0):
        shutil.rmtree(folder)
        _keep_settings(folder, config, step)
    elif changed:
        raise ValueError(
            f"{folder} was begun with other settings: {'; '.join(changed)}. Leave them as they were, take another "
            "--improve-seed, or move the folder aside to begin anew"
        )


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a tree of sections by their dotted names: `learn.steps`."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _share_start(run: Path, folder: Path) -> None:
    """Takes over the start of another arm of the same seed, which does not depend on what the arm controls."""
    if (folder / HEAD).exists():
        return
    own = _of_start(_read_settings(folder))
    others = [path.parent for path in sorted(run.glob(f"improve*/{SETTINGS}")) if path.parent != folder]
    for other in others:
        if (other / START).exists() and _of_start(_read_settings(other)) == own:
            copy_start(other, folder)
            return


def _of_start(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in {*_FREE, "control"}}


def _read_settings(folder: Path) -> dict[str, Any]:
    """
    Raises:
        ValueError: the file is damaged.
    """
    try:
        return dict(json.loads((folder / SETTINGS).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{folder / SETTINGS} is damaged ({error}); move the folder aside to begin anew") from error
