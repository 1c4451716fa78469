"""Where a run writes: the default run directory, whose checkpoints are there, how an earlier run steps aside."""

import shutil
from pathlib import Path

from eco import recipe as recipes
from eco.observe.run import RunPaths
from eco.recipe import Recipe
from eco.training.checkpoint import Checkpoints


def default_output(name: str) -> Path:
    """runs/NAME under the working directory. A run's own recipe repeats it beside the run: RUN-2, RUN-3, ..."""
    path = Path(name)
    if name in recipes.names() or not (path.suffix or path.is_dir()):
        return Path("runs", name).absolute()
    source = path.absolute() if path.is_dir() else path.absolute().parent
    if not (source / "status.json").exists():
        return Path("runs", path.stem).absolute()
    return _first_free(source, "-")


def checkpoints_of(recipe: Recipe, run: RunPaths) -> Checkpoints:
    """The checkpoints of a run: in its directory, or in the folder that its recipe names."""
    return Checkpoints(Path(recipe.checkpoint.directory or run.checkpoints), keep=recipe.checkpoint.keep)


def check_owner(run: RunPaths, checkpoints: Checkpoints) -> None:
    """Refuses checkpoints that some other run wrote, and a folder that is not where the run has left its own.

    Raises:
        ValueError: there are checkpoints, and no run of theirs in the directory; or the run's lie elsewhere.
    """
    if not run.recipe.is_file():
        if checkpoints.entries():
            raise ValueError(
                f"{checkpoints.directory} holds checkpoints of another run than {run.path}, which is new; choose "
                "another --checkpoint-dir for it, or go on with the run that they belong to"
            )
        return
    own = checkpoints_of(recipes.load(str(run.recipe)), run)
    if own.directory != checkpoints.directory and own.entries():
        raise ValueError(
            f"the checkpoints of {run.path} are in {own.directory}, not in {checkpoints.directory}; move them there, "
            "leave --checkpoint-dir as it was, or choose another --output-dir for a new run"
        )


def set_aside(run: RunPaths, checkpoints: Path) -> Path | None:
    """Moves what an earlier run left to `previous/1` (or 2, ...) of the directory, so that a fresh start loses nothing.

    checkpoints: where that run's checkpoints are, inside the directory or elsewhere. None: there was no earlier run.
    """
    old = [run.recipe, run.metrics, run.status, run.environment, run.integrity_manifest, run.tokenizer, run.identifiers]
    old += [run.samples, run.plots, run.errors]  # the log stays: it is open, and goes on
    old += [*run.path.glob("improve*")]
    if not run.metrics.exists() and not any(checkpoints.glob("step_*")):
        return None
    target = _first_free(run.path / "previous", "/")
    target.mkdir(parents=True)
    for path in old:
        if path.exists():
            path.rename(target / path.name)
    if checkpoints.exists():
        (target / "checkpoints").mkdir()
        for name in ("step_*", "best.json", "quarantine"):  # an outside folder may hold other things too
            for path in checkpoints.glob(name):
                shutil.move(path, target / "checkpoints")
        _name_no_folder(target / run.recipe.name)
    for folder in [*run.folders(), checkpoints]:
        folder.mkdir(parents=True, exist_ok=True)
    return target


def _name_no_folder(path: Path) -> None:
    """The checkpoints of the run with this recipe now lie in its directory, wherever they were before."""
    if path.is_file() and (recipe := recipes.load(str(path))).checkpoint.directory:
        inside = recipe.checkpoint.model_copy(update={"directory": None})
        recipes.save(recipe.model_copy(update={"checkpoint": inside}), path)


def _first_free(path: Path, joint: str) -> Path:
    """PATH-2, PATH-3, ... or PATH/1, PATH/2, ...: the first that is not there."""
    number = 1 if joint == "/" else 2
    while (candidate := Path(f"{path}{joint}{number}")).exists():
        number += 1
    return candidate
