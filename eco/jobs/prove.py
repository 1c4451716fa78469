"""Proofs of features: what each brings at equal compute, over several seeds, and that off is as if it had never been.

For each seed a run with the feature and one without start from the same weights (as far as both have them) and read the
same samples. A pilot measures what a step costs with the feature and without; the run without it gets so many more
steps, rounded to 5 %, that both cost the same. The pilot's runs without the feature come in two kinds, plain and with
all of the feature's knobs turned and its modules locked out, and must agree in every bit.

Each run is a process of its own, one after the other. What is finished is kept, so that a proof which was stopped goes
on; a changed recipe makes it begin anew.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from shutil import rmtree
from statistics import mean
from typing import Any, Literal

import torch
import xxhash
from safetensors.torch import save_file

import eco
from eco import flags as flat_flags
from eco import recipe as recipes
from eco.files import write_json
from eco.flags import Flag, from_mapping
from eco.jobs.arm import Outcome, Task
from eco.jobs.features import Feature, features_of, find
from eco.jobs.initial import start_from
from eco.jobs.language import LanguageWork
from eco.jobs.proofs import BITS, SOLVED, Proof, Report, write_report
from eco.jobs.puzzles import PuzzleWork
from eco.recipe import Recipe
from eco.tasks.puzzles.contract import PuzzleConfig
from eco.training import tree
from eco.training.precision import resolve_device

Equal = Literal["compute", "steps"]

PILOT_STEPS = 18
"""Of which the first (memory is taken, caches are filled) and the last (it evaluates) do not count: what a feature does
in every eighth step, or fourth, or second, is in the other 16 as often as it is in a long run."""

GRAIN = 0.05
"""Steps without the feature are a multiple of this many of those with it: a pilot is no more exact."""

ALIKE: dict[str, Any] = {
    "resume": False, "prompts": (), "train.tokens": None, "train.minutes": None, "train.patience": 0,
    "train.eval_every": 0, "checkpoint.every": 0, "checkpoint.seconds": 0, "checkpoint.directory": None,
    "log.trackers": (), "log.quiet": True,
}  # fmt: skip
"""Settings of all runs of a proof: nothing but steps ends one, and nothing but training takes its time."""


def prove(
    recipe: str,
    feature: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    seeds: int = 5,
    equal: Equal = "compute",
    output_dir: str | Path = ".",
) -> Report:
    """Proves a feature of a recipe, or all: `eco.prove("sigma-tiny", "diff_mla", {"train.steps": 60}, seeds=2)`.

    equal: what on and off have in common, compute or the number of steps. output_dir: the folder `prove` in it keeps
    what is finished; of all features also a report with a picture.

    Raises:
        ValueError: the recipe cannot be used, or has no such feature.
    """
    flags = flat_flags.from_mapping(overrides or {})
    chosen = choose(recipe, flags, [feature] if feature else None)
    report = prove_features(recipe, flags, chosen, seeds=seeds, equal=equal, folder=Path(output_dir) / "prove")
    return report if feature else write_report(report)


def choose(recipe: str, flags: Sequence[Flag], names: Sequence[str] | None) -> list[Feature]:
    """The features by name; None: all that the recipe's model can have.

    Raises:
        ValueError: there is no such feature, or the model cannot have it.
    """
    family = recipes.load(recipe, flags).model.family
    return features_of(family) if names is None else [find(name, family) for name in names]


def prove_features(
    recipe: str,
    flags: Sequence[Flag],
    features: Sequence[Feature],
    *,
    seeds: int,
    equal: Equal = "compute",
    folder: Path,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Proves one feature after the other. folder: for what is finished and the report. say: is told how it goes.

    Raises:
        ValueError: there are too few seeds for an interval, the folder cannot be written, or a run failed or diverged;
            the message says where its log is.
    """
    if seeds < 2:
        raise ValueError(f"--seeds {seeds}: an interval needs at least 2")
    folder = folder.absolute()
    home = folder / "runs" / Path(recipe).stem
    proofs = [_Trial(recipe, flags, feature, home / feature.name, say).prove(seeds, equal) for feature in features]
    return Report(recipe, seeds, equal, proofs, folder)


class _Trial:
    """The runs of one feature in `folder`."""

    def __init__(
        self, recipe: str, flags: Sequence[Flag], feature: Feature, folder: Path, say: Callable[[str], None]
    ) -> None:
        self.name, self.flags, self.feature, self.folder = recipe, flags, feature, folder
        self.recipe = feature.switched_on(recipe, flags)
        self._metric = SOLVED if isinstance(self.recipe.data, PuzzleConfig) else BITS
        self._say = say
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"cannot write to {folder}: {error.strerror or error}; choose another folder with --output-dir, or "
                "change its permissions"
            ) from error

    def prove(self, seeds: int, equal: Equal) -> Proof:
        """The story: pilot, a pair of runs for each seed, what they say."""
        ratio, difference = self._pilot(equal)
        steps = self.recipe.train.steps
        steps_off = max(1, round(steps * max(GRAIN, GRAIN * round(ratio / GRAIN))))
        cost = f"a step costs {ratio:.3f} of one without; " if equal == "compute" else ""
        self._say(f"{self.feature.name}: {cost}{steps} steps on, {steps_off} off")
        pairs = [self._pair(seed, steps, steps_off) for seed in range(seeds)]
        on, off = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        counter = f"feature_{self.feature.name}"
        return Proof(
            feature=self.feature.name,
            what=self.feature.what,
            metric=self._metric,
            on=tuple(outcome.last[self._metric] for outcome in on),
            off=tuple(outcome.last[self._metric] for outcome in off),
            steps_on=steps,
            steps_off=steps_off,
            time_ratio=mean(map(self._cost, on)) / mean(map(self._cost, off)),
            bytes_on=max(outcome.peak_bytes for outcome in on),
            bytes_off=max(outcome.peak_bytes for outcome in off),
            calls=min(outcome.last.get(f"{counter}_effective_calls", 0) for outcome in on),
            evidence=on[0].last.get(f"{counter}_evidence"),
            difference=difference,
        )

    def _pilot(self, equal: Equal) -> tuple[float, str]:
        """(cost of a step with the feature over one without, how off differs from never having had it: "" not at all).

        On and off take turns, so that what else the machine does falls on both alike; of two means the lower counts.
        """
        steps = min(PILOT_STEPS, self.recipe.train.steps)
        run = partial(self._run, seed=0, steps=steps)
        on, off = self.feature.switched_on, self.feature.switched_off
        costs = [self._cost(run("pilot-on-1", on))] if equal == "compute" else []
        plain = run("pilot-off", off)
        costs += [self._cost(run("pilot-on-2", on))] if equal == "compute" else []
        try:
            turned = run("pilot-off-turned", self.feature.turned, locked=self.feature.modules)
        except ValueError as error:
            return (min(costs) / self._cost(plain) if costs else 1.0), str(error)
        ratio = min(costs) / min(map(self._cost, (plain, turned))) if costs else 1.0
        return ratio, _difference(plain, turned)

    def _pair(self, seed: int, steps: int, steps_off: int) -> tuple[Outcome, Outcome]:
        """The runs with and without the feature of one seed."""
        switched_on, switched_off = self.feature.switched_on, self.feature.switched_off
        start = self._recipe(switched_on, f"seed-{seed}-on", seed, steps)
        on = self._run(f"seed-{seed}-on", switched_on, seed=seed, steps=steps, start=start)
        off = self._run(f"seed-{seed}-off", switched_off, seed=seed, steps=steps_off, start=start)
        self._weights(seed).unlink(missing_ok=True)
        for arm, outcome in (("on", on), ("off", off)):
            if outcome.last[self._metric] is None:  # as metrics.jsonl has what is not finite
                raise ValueError(
                    f"the run of seed-{seed}-{arm} ended without a finite {self._metric}, so there is nothing to "
                    f"compare; a lower --lr often mends it (log: {self.folder / f'seed-{seed}-{arm}.log'})"
                )
        return on, off

    def _run(
        self,
        arm: str,
        switch: Callable[[str, Sequence[Flag]], Recipe],
        *,
        seed: int,
        steps: int,
        start: Recipe | None = None,
        locked: Sequence[str] = (),
    ) -> Outcome:
        """Trains one arm, or takes what it left when it was finished earlier.

        start: both arms of a seed take over the initial weights of this recipe's model; None: each draws its own.
        """
        recipe = self._recipe(switch, arm, seed, steps, start)
        path = self.folder / f"{arm}.json"
        key = _key(recipe, start, locked)
        if (kept := Outcome.kept(path, key)) is not None:
            return kept
        self._say(f"{self.feature.name}: {arm}, {steps} steps")
        if start is not None:  # anew for each arm: what a stopped proof left there may be of another recipe
            _save_initial(start, self._weights(seed))
        rmtree(self.folder / arm, ignore_errors=True)
        recipes.save(recipe, self.folder / f"{arm}.yaml")
        _in_a_process(Task(str(self.folder / f"{arm}.yaml"), tuple(locked), str(path), key), self.folder / f"{arm}.log")
        outcome = Outcome.kept(path, key)
        assert outcome is not None, "an arm that ends well has written its outcome"
        return outcome

    def _recipe(
        self,
        switch: Callable[[str, Sequence[Flag]], Recipe],
        arm: str,
        seed: int,
        steps: int,
        start: Recipe | None = None,
    ) -> Recipe:
        settings = {**ALIKE, "output_dir": str(self.folder / arm), "train.steps": steps}
        settings["train.seed"] = self.recipe.train.seed + seed
        if not isinstance(self.recipe.data, PuzzleConfig):  # there it would be other puzzles, held-out ones too
            settings["data.seed"] = self.recipe.data.seed + seed
        if start is not None:
            settings["init_from"] = str(self._weights(seed))
        return switch(self.name, [*self.flags, *from_mapping(settings)])

    def _weights(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}.safetensors"

    def _cost(self, outcome: Outcome) -> float:
        """Mean seconds of a step: of the processors, on a GPU by the clock. Neither the first nor the last step counts,
        unless there is no other."""
        device = resolve_device(self.recipe.train.device)
        seconds = outcome.wall_s if device.type == "cuda" else outcome.cpu_s
        return mean(seconds[1:-1] or seconds)


def _key(recipe: Recipe, start: Recipe | None, locked: Sequence[str]) -> str:
    """Names all that the outcome of an arm depends on, but for the text of its corpus, and not where its files lie."""
    own = recipe.model_dump(mode="json", exclude={"output_dir", "init_from"})
    origin = (start or recipe).model_dump(mode="json", exclude={"output_dir"})
    machine = [torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"), os.environ.get("ECO_KERNELS")]
    depends = json.dumps([own, origin, list(locked), machine, eco.__version__, torch.__version__])
    return xxhash.xxh3_128_hexdigest(depends.encode())


def _save_initial(recipe: Recipe, path: Path) -> None:
    """Writes the initial weights of the recipe's model, also those that it takes from elsewhere."""
    on_cpu = torch.device("cpu")
    is_puzzle = isinstance(recipe.data, PuzzleConfig)
    work = (
        PuzzleWork(recipe, on_cpu, lambda text: None)
        if is_puzzle
        else LanguageWork(recipe, recipe.tokenizer, on_cpu, lambda text: None)
    )
    if recipe.init_from:
        start_from(work.model, Path(recipe.init_from))
    beside = path.with_suffix(".tmp")
    save_file(tree.separate(tree.split(work.model.state_dict())[1]), beside)
    beside.replace(path)


def _in_a_process(task: Task, log: Path) -> None:
    """Runs an arm to its end; it does not outlive this process.

    Raises:
        ValueError: it failed.
    """
    file = log.with_suffix(".task")
    write_json(file, asdict(task))
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "eco.jobs.arm", str(file)],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # Ctrl+C is for this process, which then ends the arm
        )
        try:
            status = process.wait()
        finally:
            process.kill()
            process.communicate()
    if status:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise ValueError(f"the run of {log.stem} failed: {lines[-1] if lines else f'status {status}'} (log: {log})")


def _difference(plain: Outcome, turned: Outcome) -> str:
    """In words, what the knobs of a feature that is off have changed; "" if nothing."""
    for step, (one, other) in enumerate(zip(plain.losses, turned.losses, strict=True), start=1):
        if one != other:
            return f"with its knobs turned the loss of step {step} is {other!r} and not {one!r}"
    return "" if plain.weights == turned.weights else "with its knobs turned the trained weights differ"
