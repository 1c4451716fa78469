"""Whole pipelines, without a hand on the wheel: models trained one after the other, packed, validated, compared.

A stage is a command of Eco in a process of its own, so that none inherits memory or settings from another and a crash
ends one stage only. `pipeline.json` says which stages are done, by what command on what data; the same call again goes
on behind them, and training goes on from its own checkpoints. Nothing ever asks a question.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from eco import recipe as recipes
from eco.data.library.folder import MANIFEST, open_library
from eco.data.library.recipes import kjv
from eco.files import write_json
from eco.flags import Flag
from eco.jobs.validate import report_path

PIPELINES = {"simone": ("mvlm-gpt2", "simone")}
"""Name -> the recipes of its models, in the order in which they are trained."""

LIBRARY = kjv.FOLDER
STATE, SUMMARY, DOWNLOADS = "pipeline.json", "training_summary.json", "models_for_download"

State = Literal["waiting", "done", "failed", "skipped"]


@dataclass(frozen=True)
class Stage:
    """One command. needs: names of the stages without which it cannot run. makes: what is there once it is done."""

    name: str
    words: tuple[str, ...]
    makes: Path
    needs: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What became of a stage. log: where its output stands."""

    state: State
    seconds: float = 0.0
    status: int | None = None
    log: str = ""


@dataclass
class Plan:
    """A pipeline's stages in order, for one folder and one corpus. digest: of the corpus, where it is there already."""

    folder: Path
    stages: tuple[Stage, ...]
    digest: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        return all(outcome.state == "done" for outcome in self.outcomes.values())

    def finished(self, stage: Stage) -> bool:
        """Whether an earlier call has done this very stage, and what it made is still there."""
        kept = _read(self.folder / STATE).get(stage.name, {})
        return kept.get("key") == self.key(stage) and stage.makes.exists()

    def key(self, stage: Stage) -> str:
        """What a finished stage depends on: its command, those before it, the corpus."""
        before = [self.key(other) for other in self.stages if other.name in stage.needs]
        return json.dumps([stage.words, self.digest, before])


def plan(
    name: str,
    *,
    preset: str = recipes.WHOLE,
    data: str | None = None,
    models: Sequence[str] = (),
    folder: str | Path | None = None,
    flags: Sequence[Flag] = (),
) -> Plan:
    """The stages of pipeline `name`; every recipe is resolved here, so that a mistyped setting stops nothing half way.

    data: a library, or the text that one is built from first (a folder with kjv.txt); by default the library
    mvlm_training_dataset_complete of the working directory. flags: settings for all its models.

    Raises:
        ValueError: no such pipeline, preset or model, a setting that a model refuses, or no corpus.
    """
    known = PIPELINES.get(name)
    if known is None:
        raise ValueError(f"no pipeline {name!r}; there is: {', '.join(PIPELINES)}")
    if foreign := [model for model in models if model not in known]:
        raise ValueError(f"pipeline {name} has no model {foreign[0]!r}; its models are {', '.join(known)}")
    root = Path(folder or Path("runs", f"{name}-pipeline")).absolute()
    first, library = _corpus(Path(data or LIBRARY).expanduser().absolute(), root)
    stages = list(first)
    chosen = [model for model in known if not models or model in models]
    for model in chosen:
        stages += _of_model(model, preset, library, root, flags, needs=tuple(stage.name for stage in first))
    if len(chosen) > 1:
        runs = [str(root / "models" / model) for model in chosen]
        words = ("compare", *runs, "--output-dir", str(root / "comparison"))
        needs = tuple(f"train {model}" for model in chosen)
        stages.append(Stage("compare", words, root / "comparison" / "comparison.json", needs))
    digest = open_library(library).digest if not first else ""
    return Plan(root, tuple(stages), digest)


def run(plan: Plan, *, continue_on_error: bool = False, say: Callable[[str], None] = lambda _: None) -> Plan:
    """Runs the stages that are not finished; the plan's `outcomes` say what became of each.

    continue_on_error: goes on with what does not need a stage that failed.
    """
    (plan.folder / "logs").mkdir(parents=True, exist_ok=True)
    for number, stage in enumerate(plan.stages, start=1):
        label = f"[{number}/{len(plan.stages)}] {stage.name}"
        failed = [name for name in stage.needs if plan.outcomes[name].state != "done"]
        stopped = not continue_on_error and any(outcome.state == "failed" for outcome in plan.outcomes.values())
        if plan.finished(stage):
            plan.outcomes[stage.name] = Outcome("done", **_kept(plan, stage))
            say(f"{label}: done before")
        elif failed or stopped:
            plan.outcomes[stage.name] = Outcome("skipped")
            say(f"{label}: skipped" + (f", as {', '.join(failed)} failed" if failed else ""))
        else:
            say(f"{label}: eco {' '.join(stage.words)}")
            plan.outcomes[stage.name] = outcome = _carry_out(plan, stage, say)
            say(f"{label}: {outcome.state} after {outcome.seconds:.0f} s")
        _remember(plan, stage)
    write_json(plan.folder / SUMMARY, summary(plan))
    return plan


def summary(plan: Plan) -> dict[str, Any]:
    """The stages with their times, and of each model's run the files with their sizes in MB."""
    runs = sorted(path for path in (plan.folder / "models").glob("*") if path.is_dir())
    files = {
        path.name: {str(file.relative_to(path)): round(file.stat().st_size / 1e6, 3) for file in _files(path)}
        for path in runs
    }
    stages = {name: vars(outcome) for name, outcome in plan.outcomes.items()}
    return {"succeeded": plan.succeeded, "corpus": plan.digest, "stages": stages, "files_mb": files}


def _corpus(data: Path, root: Path) -> tuple[list[Stage], Path]:
    """The stage that builds the library, where the data are the text of one; and the library."""
    if (data / MANIFEST).is_file():
        return [], data
    if (data / "kjv.txt").is_file():
        library = root / LIBRARY
        words = ("data", "build-corpus", str(library), "--recipe", "kjv", "--source", str(data))
        return [Stage("corpus", words, library / MANIFEST)], library
    raise ValueError(
        f"no corpus in {data}: neither a library nor a folder with kjv.txt; build one with `eco data build-corpus "
        f"{LIBRARY} --recipe kjv --source FOLDER`, or name where it is with --data.paths"
    )


def _of_model(
    model: str, preset: str, library: Path, root: Path, flags: Sequence[Flag], needs: tuple[str, ...]
) -> Iterator[Stage]:
    presets = recipes.presets(model)
    if preset not in presets:
        raise ValueError(f"{model} has no preset {preset!r}; there is: {', '.join(presets)}")
    run, archive = root / "models" / model, root / DOWNLOADS / f"{model}_model.tar.gz"
    recipe = presets[preset]
    recipes.load(recipe, flags)
    settings = [word for flag in flags for word in (f"--{flag.name}", *(flag.value or []))]
    words = ("train", recipe, "--data.paths", f"library:{library}", *settings, "--output-dir", str(run))
    yield Stage(f"train {model}", words, run / "checkpoints", needs)
    yield Stage(f"pack {model}", ("pack", str(run), "--to", str(archive.parent)), archive, (f"train {model}",))
    yield Stage(f"validate {model}", ("validate", str(archive)), report_path(archive), (f"pack {model}",))


def _carry_out(plan: Plan, stage: Stage, say: Callable[[str], None]) -> Outcome:
    """Runs a stage; what it prints goes on and into its log."""
    log = plan.folder / "logs" / f"{stage.name.replace(' ', '_')}.log"
    began = time.monotonic()
    command = [sys.executable, "-m", "eco", *stage.words]
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                say(f"    {line.rstrip()}")
            status = process.wait()
        except KeyboardInterrupt:  # the stage was asked too: it saves what it has and ends by itself
            process.wait()
            raise
    done = status == 0 and stage.makes.exists()
    return Outcome("done" if done else "failed", time.monotonic() - began, status, str(log))


def _remember(plan: Plan, stage: Stage) -> None:
    """Writes the state file: the outcome of each stage so far, with what it depended on."""
    path = plan.folder / STATE
    write_json(path, _read(path) | {stage.name: {**vars(plan.outcomes[stage.name]), "key": _key(plan, stage)}})


def _key(plan: Plan, stage: Stage) -> str | None:
    return plan.key(stage) if plan.outcomes[stage.name].state == "done" else None


def _kept(plan: Plan, stage: Stage) -> dict[str, Any]:
    kept = _read(plan.folder / STATE)[stage.name]
    return {name: kept[name] for name in ("seconds", "status", "log")}


def _read(path: Path) -> dict[str, Any]:
    """The state file; empty where there is none that can be read."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
