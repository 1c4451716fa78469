"""Whole pipelines, without a hand on the wheel: models trained one after the other, packed, validated, compared.

A stage is a command of Eco in a process of its own, so that none inherits memory or settings from another and a crash
ends one stage only. `pipeline.json` says which stages were begun and done, by what command on what data; the same call
again goes on behind them, and training goes on from its own checkpoints. What has changed since is done anew, and all
that was made from it. Nothing ever asks a question.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

from filelock import FileLock, Timeout

from eco import recipe as recipes
from eco.config import nearest
from eco.data.library.folder import MANIFEST, open_library
from eco.data.library.recipes import kjv
from eco.files import sha256, write_json
from eco.flags import Flag, parse
from eco.jobs.output import checkpoints_of, set_aside
from eco.jobs.validate import report_path
from eco.observe.run import RunPaths
from eco.sandbox.system import die_with_parent

PIPELINES = {"simone": ("mvlm-gpt2", "simone")}
"""Name -> the recipes of its models, in the order in which they are trained."""

LIBRARY = kjv.FOLDER
STATE, SUMMARY, DOWNLOADS = "pipeline.json", "training_summary.json", "models_for_download"

_GLANCE_S = 0.2
"""Seconds between two looks at what a stage has printed."""

State = Literal["waiting", "running", "done", "failed", "skipped"]


@dataclass(frozen=True)
class Stage:
    """One command. needs: names of the stages without which it cannot run. makes: what is there once it is done."""

    name: str
    words: tuple[str, ...]
    makes: Path
    needs: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        return self.words[0] == "train"

    @property
    def made(self) -> bool:
        """Whether what it makes is there; a training that a signal ended has checkpoints too, and exit status 0."""
        whole = not self.trains or _read(RunPaths(self.makes.parent).status).get("state") == "finished"
        return whole and self.makes.exists()


@dataclass
class Outcome:
    """What became of a stage. status: the exit status of its process. log: where its output stands."""

    state: State
    seconds: float = 0.0
    status: int | None = None
    log: str = ""


@dataclass
class Plan:
    """A pipeline's stages in order, for one folder and one corpus. digest: of the library, or of its source."""

    folder: Path
    stages: tuple[Stage, ...]
    digest: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        return all(stage.name in self.outcomes and self.outcomes[stage.name].state == "done" for stage in self.stages)

    def finished(self, stage: Stage) -> bool:
        """Whether earlier calls have done this very stage and those it needs, and what they made is still there."""
        kept = self.state().get(stage.name, {})
        done = kept.get("state") == "done" and kept["key"] == self.key(stage) and stage.made
        return done and all(self.finished(other) for other in self.stages if other.name in stage.needs)

    def key(self, stage: Stage) -> str:
        """What a stage depends on beside those it needs: its command and the corpus."""
        return json.dumps([stage.words, self.digest])

    def state(self) -> dict[str, dict[str, Any]]:
        """Stage -> its outcome, key and needs, of all stages that were ever begun in the folder."""
        return _read(self.folder / STATE)


def pipeline(
    name: str, overrides: Mapping[str, Any] | None = None, *, continue_on_error: bool = False, **choices: Any
) -> dict[str, Any]:
    """Runs a pipeline and returns its `summary`: `eco.pipeline("simone", {"steps": 100}, preset="laptop")`.

    overrides: settings for all its models. choices: preset, data, models and folder of `plan`.

    Raises:
        ValueError: see `plan` and `run`.
    """
    flags = parse([f"--{key}={value}" for key, value in (overrides or {}).items()])
    return summary(run(plan(name, flags=flags, **choices), continue_on_error=continue_on_error))


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
        raise ValueError(f"no pipeline {name!r}{nearest(name, [*PIPELINES])}; there is: {', '.join(PIPELINES)}")
    if foreign := [model for model in models if model not in known]:
        close = nearest(foreign[0], list(known))
        raise ValueError(f"pipeline {name} has no model {foreign[0]!r}{close}; its models are {', '.join(known)}")
    root = Path(folder or Path("runs", f"{name}-pipeline")).absolute()
    first, library, digest = _corpus(Path(data or LIBRARY).expanduser().absolute(), root)
    stages = list(first)
    chosen = [model for model in known if not models or model in models]
    for model in chosen:
        stages += _of_model(model, preset, library, root, flags, needs=tuple(stage.name for stage in first))
    if len(chosen) > 1:
        runs = [str(root / "models" / model) for model in chosen]
        words = ("compare", *runs, "--output-dir", str(root / "comparison"))
        needs = tuple(f"train {model}" for model in chosen)
        stages.append(Stage("compare", words, root / "comparison" / "comparison.json", needs))
    return Plan(root, tuple(stages), digest)


def run(plan: Plan, *, continue_on_error: bool = False, say: Callable[[str], None] = lambda _: None) -> Plan:
    """Runs the stages that are not finished; the plan's `outcomes` say what became of each.

    continue_on_error: goes on with what does not need a stage that failed.

    Raises:
        ValueError: another process is at work in the plan's folder.
    """
    (plan.folder / "logs").mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(plan.folder / ".lock", timeout=0):
            for stage in plan.stages:
                plan.outcomes[stage.name] = _outcome(plan, stage, continue_on_error, say)
            write_json(plan.folder / SUMMARY, summary(plan))
    except Timeout:
        raise ValueError(f"another `eco pipeline` is at work in {plan.folder}; wait, or give --output-dir") from None
    return plan


def _outcome(plan: Plan, stage: Stage, continue_on_error: bool, say: Callable[[str], None]) -> Outcome:
    """Runs a stage, if that has to be and can be."""
    label = f"[{plan.stages.index(stage) + 1}/{len(plan.stages)}] {stage.name}"
    if plan.finished(stage):
        say(f"{label}: done before")
        kept = plan.state()[stage.name]
        return Outcome("done", kept["seconds"], kept["status"], kept["log"])
    missing = [name for name in stage.needs if plan.outcomes[name].state != "done"]
    failed = any(outcome.state == "failed" for outcome in plan.outcomes.values())
    if missing or (failed and not continue_on_error):
        say(f"{label}: skipped" + (f", as it needs {', '.join(missing)}" if missing else ""))
        return Outcome("skipped")
    _begin(plan, stage)
    say(f"{label}: eco {' '.join(stage.words)}")
    outcome = _carry_out(stage, plan.folder / "logs" / f"{stage.name.replace(' ', '_')}.log", say)
    _note(plan, stage, outcome)
    why = "" if outcome.state == "done" else f", exit status {outcome.status}; all it said is in {outcome.log}"
    say(f"{label}: {outcome.state} after {outcome.seconds:.0f} s{why}")
    return outcome


def summary(plan: Plan) -> dict[str, Any]:
    """The stages with their times, and of each model's run the files with their sizes in MB."""
    runs = sorted(path for path in (plan.folder / "models").glob("*") if path.is_dir())
    files = {
        path.name: {str(file.relative_to(path)): round(file.stat().st_size / 1e6, 3) for file in _files(path)}
        for path in runs
    }
    stages = {name: vars(outcome) for name, outcome in plan.outcomes.items()}
    return {"succeeded": plan.succeeded, "corpus": plan.digest, "stages": stages, "files_mb": files}


def _corpus(data: Path, root: Path) -> tuple[list[Stage], Path, str]:
    """The stage that builds the library, where the data are the text of one; the library; what names its content."""
    if (data / MANIFEST).is_file():
        return [], data, open_library(data).digest
    if (data / "kjv.txt").is_file():
        library = root / LIBRARY
        words = ("data", "build-corpus", str(library), "--recipe", "kjv", "--source", str(data), "--force")
        digest = " ".join(sha256(path) for path in sorted(data.glob("kjv*.txt")))
        return [Stage("corpus", words, library / MANIFEST)], library, digest
    raise ValueError(
        f"no corpus in {data}: neither a library nor a folder with kjv.txt; build one with `eco data build-corpus "
        f"{LIBRARY} --recipe kjv --source FOLDER`, or name where it is with --data.paths"
    )


def _of_model(
    model: str, preset: str, library: Path, root: Path, flags: Sequence[Flag], needs: tuple[str, ...]
) -> Iterator[Stage]:
    presets = recipes.presets(model)
    if preset not in presets:
        close = nearest(preset, [*presets])
        raise ValueError(f"{model} has no preset {preset!r}{close}; there is: {', '.join(presets)}")
    run, archive = root / "models" / model, root / DOWNLOADS / f"{model}_model.tar.gz"
    settings = (
        "--data.paths",
        f"library:{library}",
        *(word for flag in flags for word in _words(flag)),
        "--output-dir",
        str(run),
    )
    recipes.load(presets[preset], parse(settings))
    words = ("train", presets[preset], *settings)
    yield Stage(f"train {model}", words, run / "checkpoints", needs)
    yield Stage(f"pack {model}", ("pack", str(run), "--to", str(archive.parent)), archive, (f"train {model}",))
    yield Stage(f"validate {model}", ("validate", str(archive)), report_path(archive), (f"pack {model}",))


def _words(flag: Flag) -> Iterator[str]:
    """A flag as it is typed, also one whose value looks like a flag."""
    first, *others = flag.value or [None]
    yield f"--{flag.name}" if first is None else f"--{flag.name}={first}"
    yield from others


def _begin(plan: Plan, stage: Stage) -> None:
    """Notes that a stage runs. A training goes on with what is there, unless that is of another command or corpus."""
    run, key = RunPaths(stage.makes.parent), plan.key(stage)
    if stage.trains and run.recipe.is_file() and plan.state().get(stage.name, {}).get("key", key) != key:
        set_aside(run, checkpoints_of(recipes.load(str(run.recipe)), run).directory)
    _note(plan, stage, Outcome("running"))


def _note(plan: Plan, stage: Stage, outcome: Outcome) -> None:
    """Writes a stage's outcome to the state file, and that those that need it, at whatever remove, wait again."""
    known, stale = plan.state(), {stage.name}
    while more := {name for name, kept in known.items() if stale & {*kept["needs"]}} - stale:
        stale |= more
    waiting = {name: {**known[name], "state": "waiting"} for name in stale & known.keys()}
    own = {stage.name: {**vars(outcome), "key": plan.key(stage), "needs": stage.needs}}
    write_json(plan.folder / STATE, known | waiting | own)


def _carry_out(stage: Stage, log: Path, say: Callable[[str], None]) -> Outcome:
    """Runs a stage's command; what it prints goes into the log, and on from there.

    It has no pipe to this process that could fill up or break, no terminal, and a group of its own, so that Ctrl+C
    reaches it through here alone and once. Where this process is killed, Linux asks it to end as SIGTERM does.
    """
    began = time.monotonic()
    with open(log, "ab") as file, open(log, encoding="utf-8", errors="replace") as shown:
        shown.seek(0, 2)
        process = subprocess.Popen(
            [sys.executable, "-m", "eco", *stage.words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, signal.SIGTERM) if sys.platform == "linux" else None,
        )
        try:
            _follow(process, shown, say)
        except BaseException:  # it saves what it has and ends by itself
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    done = process.returncode == 0 and stage.made
    return Outcome("done" if done else "failed", time.monotonic() - began, process.returncode, str(log))


def _follow(process: subprocess.Popen[bytes], shown: IO[str], say: Callable[[str], None]) -> None:
    """Says the lines that a process writes, until it ends."""
    begun = ""
    while process.returncode is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GLANCE_S)
        *lines, begun = (begun + shown.read()).split("\n")
        for line in lines:
            say(f"    {line}")
    if begun:
        say(f"    {begun}")


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none that can be read."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
