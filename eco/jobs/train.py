"""Training, from a recipe to a run directory with a trained model, its curves and its samples."""

import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

import torch

from eco import flags, machine
from eco import recipe as recipes
from eco.data.prefetch import prefetch
from eco.data.tokenizer import TokenizerConfig
from eco.files import write_json
from eco.improvement.callback import Improving
from eco.jobs.initial import start_from
from eco.jobs.language import LanguageWork
from eco.jobs.loop import open_loop
from eco.jobs.output import check_owner, checkpoints_of, default_output, set_aside
from eco.jobs.puzzles import PuzzleWork
from eco.jobs.work import Work
from eco.kernels.backend import backend
from eco.models.contract import Batch
from eco.models.instant import InstantModel
from eco.observe.crash import write_crash_report
from eco.observe.environment import environment
from eco.observe.integrity import Integrity
from eco.observe.metrics import read_metrics
from eco.observe.phases import Phases
from eco.observe.plots import plot_run
from eco.observe.progress import Progress
from eco.observe.run import RunDirectory, RunPaths, existing_run
from eco.observe.speed import Speed
from eco.observe.trackers import open_trackers
from eco.optim import gnprox
from eco.optim.c3o import C3O
from eco.optim.contract import load_state
from eco.optim.parts.sophia import Sophia
from eco.plugins import find
from eco.recipe import Recipe
from eco.tasks.puzzles.contract import PuzzleConfig
from eco.training.callbacks import Callback, Evaluation, Row, Saving
from eco.training.curvature import Curvature
from eco.training.distributed import World
from eco.training.ema import WeightAverage
from eco.training.instant import InstantCallback
from eco.training.precision import Precision, resolve_device
from eco.training.recording import Recording
from eco.training.requirements import check_requirements
from eco.training.trainer import STOPPED_ELSEWHERE, Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a training job leaves behind."""

    run: Path
    reason: str
    """Why it ended: steps, tokens, minutes, the name of a signal, or what stopped it early."""
    step: int
    before: Row
    """Held-out measurement of the untrained model; empty in a dry run."""
    after: Row
    """The last held-out measurement."""
    last_row: Row
    """The last row of metrics.jsonl that this session wrote; empty if it made no step."""
    parameters: Mapping[str, int]
    samples: list[str] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)
    headline: str = ""
    """What training has brought, in one line."""
    next_command: str = ""
    """What to do with the trained model."""
    is_main: bool = True
    """False in the processes of torchrun that write no files; the first one speaks for all."""

    def summary(self) -> dict[str, Any]:
        """The same as plain data for JSON."""
        return {
            "run": str(self.run), "reason": self.reason, "step": self.step, "before": self.before, "after": self.after,
            "last_row": self.last_row, "parameters": dict(self.parameters), "samples": self.samples,
            "plots": [str(path) for path in self.plots],
        }  # fmt: skip


def train(recipe: str, overrides: Mapping[str, Any] | None = None, *, quiet: bool = True) -> Result:
    """Trains a recipe: `eco.train("demo", {"train.steps": 100})`. Goes on where the run directory's run stopped.

    Raises:
        ValueError: the recipe, the data or the run directory cannot be used; the message says how to mend it.
    """
    return train_recipe(recipes.load(recipe, flags.from_mapping(overrides or {})), recipe, quiet=quiet)


def resume(run: str | Path, overrides: Mapping[str, Any] | None = None, *, quiet: bool = True) -> Result:
    """Goes on with the run in a run directory; `overrides` may change what the saved state does not depend on.

    Raises:
        ValueError: no run directory, or a setting that its saved state does not fit.
    """
    here = existing_run(run)
    recipe = recipes.load(str(here.recipe), flags.from_mapping(overrides or {}))
    recipe = recipe.model_copy(update={"output_dir": str(here.path), "resume": True})
    return train_recipe(recipe, here.path.name, quiet=quiet)


def train_recipe(recipe: Recipe, name: str, *, dry_run: bool = False, quiet: bool = False) -> Result:
    """Trains a resolved recipe; `name` is what it was called, for the default run directory.

    dry_run: builds everything, data included, and returns before the first step.
    """
    started = time.perf_counter()
    machine.prepare()
    device = resolve_device(recipe.train.device)
    check_requirements(recipe.train, device)
    world = World(device)
    output = Path(recipe.output_dir) if recipe.output_dir else default_output(name)
    opened: AbstractContextManager[RunPaths] = RunDirectory(output) if world.is_main else nullcontext(RunPaths(output))
    try:
        shown = world.is_main and not (quiet or recipe.log.quiet or dry_run)
        with opened as run, Progress(recipe.train.steps, shown) as progress, ExitStack() as closing:
            progress.note(f"run directory: {run.path}")
            return _Job(recipe, run, world, progress, started, dry_run, closing).run_to_the_end()
    finally:
        world.close()


class _Job:
    """The parts of one training session, built in order; `run_to_the_end` tells the story."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunPaths,
        world: World,
        progress: Progress,
        started: float,
        dry_run: bool,
        closing: ExitStack,
    ) -> None:
        self.recipe = recipe
        self.dry_run = dry_run
        self.run = run
        self.world = world
        self.progress = progress
        self.device = resolve_device(recipe.train.device)
        self.precision = Precision(recipe.train.precision, self.device)
        self.phases = Phases(self.device)
        self.speed = Speed(self.phases, started, recipe.log.ema)
        self.checkpoints = checkpoints_of(recipe, run)
        if world.is_main:
            check_owner(run, self.checkpoints)
            if not (recipe.resume or dry_run) and (moved := set_aside(run, self.checkpoints.directory)):
                self._say(f"the earlier run was moved to {moved}")
        world.wait()
        self.work = self._open_work()
        self.model = self.work.model
        self.work.check_batch(recipe.train.samples_per_step)
        self.optimizer = find("optim", recipe.optimizer.name).build(recipe.optimizer, self.model)
        self.improving = self._open_loop(closing) if recipe.improve.generation_interval else None
        decisive = ("val_unsolved", *self.work.decisive) if self.improving else self.work.decisive
        self.evaluation = Evaluation(self._measure, decisive, recipe.train.eval_every, recipe.train.patience)
        self.average = WeightAverage(self.model, recipe.train.ema_decay) if recipe.train.ema_decay else None
        self.integrity = Integrity(run, _fixed(recipe), {"seed": recipe.train.seed}, self._conditions())
        self.session: Row = {"checkpoint_resume_step": 0, "checkpoint_quarantine_count": 0, "integrity_ok": 1}
        self.session["torch_compile_enabled"] = int(recipe.train.compile)
        self.recording = self._open_recording() if world.is_main and not dry_run else None
        self.trainer = self._build_trainer()
        if not self.average:
            self.trainer.ledger.disable(WeightAverage.name)
        if not self.improving:
            self.trainer.ledger.disable(Improving.name)
        if not self.recipe.credit.enabled:
            self.trainer.ledger.disable("c3o_credit")
        if isinstance(self.model, InstantModel):
            for name, on in self.model.config.instant_features.items():
                if not on:
                    self.trainer.ledger.disable(name)

    def run_to_the_end(self) -> Result:
        restored = self.recipe.resume and self._restore()
        if self.recipe.init_from and not restored:
            self._say(start_from(self.model, Path(self.recipe.init_from)))
        self._announce(restored)
        if self.dry_run:
            return self._result("dry run")
        if not restored and self.world.is_main:
            self._keep_what_cannot_go_on()
        if self.world.is_main:
            self._describe(restored)
        try:
            reason = self.trainer.fit()
        except BaseException as error:
            self._crashed(error)
            raise
        stopped = was_stopped(reason)
        if self.recording:
            self.recording.finish("stopped" if stopped else "finished", self.trainer.step)
        if stopped or not self.world.is_main:
            return self._result(reason)
        if differences := self.integrity.differences():
            self._say("changed under way: " + "; ".join(differences))
        return self._result(reason, self._samples(), plot_run(self.run.path))

    def _keep_what_cannot_go_on(self) -> None:
        """An earlier run that left rows, but no checkpoint to go on from, steps aside."""
        if self.run.metrics.exists() and len(read_metrics(self.run.metrics)) > 1:
            moved = set_aside(self.run, self.checkpoints.directory)
            self._say(f"no checkpoint to go on from, so training starts anew; the earlier run was moved to {moved}")

    def _conditions(self) -> dict[str, str]:
        """What the bits of the result depend on beside recipe and seeds: data, arithmetic, threads."""
        return {
            "data": self.work.content,
            "precision": self.precision.name,
            "kernels": backend(self.device),
            "threads": str(torch.get_num_threads()),
        }

    def _say(self, text: str) -> None:
        """For the person at the terminal and for the log file."""
        self.progress.note(text)
        log.info(text)

    def _open_work(self) -> Work:
        """Data and model. One of several processes prepares the data; the others wait for its files, however long."""
        if isinstance(self.recipe.data, PuzzleConfig):
            return PuzzleWork(self.recipe, self.device, self._say)
        tokenizer = self.recipe.tokenizer
        resumes = self.recipe.resume and self.checkpoints.entries()
        if resumes and not tokenizer.path:  # a resumed run keeps its own, whatever the corpus is now
            tokenizer = TokenizerConfig(path=str(self.run.tokenizer))
        return LanguageWork(self.recipe, tokenizer, self.device, self._say)

    def _open_loop(self, closing: ExitStack) -> Improving:
        """The recursive loop that training calls between its steps."""
        if not isinstance(self.work, LanguageWork):
            raise ValueError("improve.generation_interval is for language models; leave it at 0 for a model of puzzles")
        if self.world.size > 1:
            raise ValueError(
                "the loop of improve.generation_interval runs in one process; leave torchrun, or set it to 0"
            )
        folder = self.run.path / "improve-in-training"  # `improve` is what `eco improve` makes of the finished run
        config = self.recipe.improve
        return Improving(open_loop(config, self.work, self.recipe, self.precision, folder, closing, self._say))

    def _open_recording(self) -> Recording:
        assert isinstance(self.run, RunDirectory), "the main process holds the lock"
        trackers = open_trackers(self.recipe.log.trackers, self.run.path, self.recipe.model_dump(mode="json"))
        return Recording(self.run, self.recipe.log, self.speed, self.progress, trackers, self.session)

    def _build_trainer(self) -> Trainer:
        callbacks: list[Callback] = [self.average] if self.average else []
        if isinstance(self.model, InstantModel) and self.model.instant is not None:
            callbacks.append(InstantCallback(self.model.instant))
        callbacks += [self.improving] if self.improving else []
        if isinstance(self.optimizer, Sophia):
            assert isinstance(self.recipe.optimizer, gnprox.Config)
            callbacks.append(Curvature(self.optimizer, self.recipe.optimizer, self.model, self.precision))
        if self.recipe.credit.enabled:
            from eco.jobs.credit import open_credit  # only here: no other run depends on it, as `eco prove` can show

            callbacks.append(open_credit(self.recipe, self.work, self.optimizer, self.precision))
        callbacks.append(self.evaluation)
        if self.recording:
            callbacks += [self.recording, Saving(self._save, self.recipe.checkpoint, self.evaluation)]
        return Trainer(
            self.recipe.train,
            self.model,
            self.optimizer,
            self._batches,
            self.precision,
            self.phases,
            callbacks=callbacks,
            restore=self._restore,
            world=self.world,
            note=self._say,
        )

    def _batches(self, position: int) -> Iterator[Batch]:
        """This process's share of each global batch, from sample `position` on."""
        whole = self.recipe.train.samples_per_step
        share = self.world.share(whole)
        first = position + self.world.rank * share
        for batch in prefetch(self.work, first, share, stride=whole, workers=self.recipe.data.workers):
            self.speed.batch()
            yield {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _measure(self) -> Row:
        with self._averaged():
            row = self.work.measure(self.trainer.micro_batch, self.precision)
        return row | ({"val_unsolved": self.improving.unsolved} if self.improving else {})

    def _averaged(self) -> AbstractContextManager[None]:
        """Inside the block the model has the averaged weights, where the run averages them."""
        return self.average.applied() if self.average else nullcontext()

    def _save(self, best: bool) -> None:
        parts = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "trainer": self.trainer.state_dict(),
        }
        path = self.checkpoints.save(self.trainer.step, parts, fit=self.work.fit(), best=best)
        if self.recording:
            self.recording.saved(path.name)

    def _restore(self) -> bool:
        """Loads the newest sound checkpoint that fits into model, optimizer and trainer; False if there is none."""
        if not self.world.is_main:
            self.world.wait()
        loaded = self.checkpoints.load_newest(self.work.fit())
        if self.world.is_main:
            self.world.wait()
        if self.checkpoints.quarantined:
            self.session["checkpoint_quarantine_count"] += self.checkpoints.quarantined
            self._say(
                f"{self.checkpoints.quarantined} damaged checkpoints were moved to quarantine, see REASON.txt there"
            )
        found_none, found_one = self.world.agree(loaded is None), self.world.agree(loaded is not None)
        if found_none and found_one:
            raise ValueError(
                f"not every process finds the checkpoints in {self.checkpoints.directory}: several machines need an "
                "--output-dir (and --checkpoint-dir) on a disk that they share"
            )
        if loaded is None:
            return False
        self.model.load_state_dict(loaded.parts["model"])
        load_state(self.optimizer, loaded.parts["optimizer"])
        if isinstance(self.optimizer, C3O) and not self.recipe.credit.enabled:
            self.optimizer.forget_credit()  # of a session that had it: nobody would measure it any more
        self.trainer.load_state_dict(loaded.parts["trainer"])
        if self.recording:
            self.recording.last_checkpoint = loaded.path.name
        return True

    def _describe(self, restored: bool) -> None:
        """Writes what the run is: recipe, data, environment, and the digests that prove they stay as they are."""
        self.session["checkpoint_resume_step"] = self.trainer.step
        if restored and (differences := self.integrity.differences()):
            self.session["integrity_ok"] = 0
            self._say("changed since the run started: " + "; ".join(differences))
        recipes.save(self.recipe.model_copy(update={"output_dir": None, "resume": True}), self.run.recipe)
        described = self.work.describe(self.run)
        write_json(self.run.environment, environment())
        self.integrity.write([self.run.recipe, *described])

    def _announce(self, restored: bool) -> None:
        parameters = sum(self.model.parameter_table().values())
        self._say(
            f"{self.recipe.model.family}: {parameters / 1e6:.1f} M parameters, {self.precision.name} on {self.device}"
        )
        if made_of := self.model.algorithmic_features():
            text = ", ".join(f"{name} {value:g}" for name, value in made_of.items())
            self.progress.note(fill(text, width=100, subsequent_indent="  "))
            log.info(text)
        if self.recipe.inactive_flags:
            text = f"not active yet: {', '.join(self.recipe.inactive_flags)}"
            self.progress.note(fill(text, width=100, subsequent_indent="  ", break_on_hyphens=False))
            log.info(text)
        if restored and self.trainer.step >= self.recipe.train.steps:
            self._say(
                f"finished already at step {self.trainer.step}; raise --steps to go on, or --no-resume to start anew"
            )
        elif restored:
            self._say(f"going on at step {self.trainer.step}")

    def _crashed(self, error: BaseException) -> None:
        if not self.recording:
            return
        report = write_crash_report(
            self.run,
            self.trainer.step,
            error,
            last_metrics=self.recording.last_row,
            features={**self.model.algorithmic_features(), **self.trainer.ledger.row()},
            recipe=self.recipe.model_dump(mode="json"),
            last_checkpoint=self.recording.last_checkpoint,
        )
        self.recording.finish("crashed", self.trainer.step)
        self._say(f"crash report: {report}")

    def _samples(self) -> list[str]:
        with self._averaged():
            return self.work.samples(self.run, self.trainer.step)

    def _result(self, reason: str, samples: list[str] | None = None, plots: list[Path] | None = None) -> Result:
        before, after = self.evaluation.first, self.evaluation.latest
        return Result(
            run=self.run.path,
            reason=reason,
            step=self.trainer.step,
            before=before,
            after=after,
            last_row=self.recording.last_row if self.recording else {},
            parameters=self.model.parameter_table(),
            samples=samples or [],
            plots=plots or [],
            headline=self.work.headline(before, after) if before and after else "",
            next_command=self.work.next_command(self.run.path),
            is_main=self.world.is_main,
        )


def was_stopped(reason: str) -> bool:
    """Whether a job ended before its time, by a signal."""
    return reason in (*signal.Signals.__members__, STOPPED_ELSEWHERE)


def _fixed(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, without what a run that moved or went on may change."""
    return recipe.model_dump(mode="json", exclude={"output_dir", "resume", "inactive_flags"})
