"""What the training loop costs beside the bare step: the same model, batches and optimizer, with and without it.

The loop runs with the recording of every step (metrics, status, speed, phases, resources), as every run does.
"""

import tempfile
import time
from collections.abc import Iterator
from statistics import median

import torch

from benchmarks.measure import Row, alternate
from eco.models import decoder
from eco.models.contract import Batch, Model, build_model
from eco.observe.phases import Phases
from eco.observe.progress import Progress
from eco.observe.run import RunDirectory
from eco.observe.speed import Speed
from eco.optim import adamw
from eco.training.callbacks import Callback
from eco.training.callbacks import Row as MetricsRow
from eco.training.config import LogConfig, TrainConfig
from eco.training.precision import Precision
from eco.training.recording import Recording
from eco.training.trainer import Trainer

CPU = torch.device("cpu")
STEPS = 6
"""Timed in one sample, after one that is not."""

BATCH, CONTEXT, VOCABULARY = 8, 256, 256
CLIP = 1.0


def rows(rounds: int = 5) -> list[Row]:
    """Milliseconds a step, and by how much the loop is slower."""
    samples = alternate({"bare": _bare_seconds, "loop": _loop_seconds}, rounds)
    bare, loop = (median(samples[name]) * 1e3 for name in ("bare", "loop"))
    # neighbours in time are compared, so that the machine's drift does not count as overhead
    overhead = median(
        with_loop / without - 1 for without, with_loop in zip(samples["bare"], samples["loop"], strict=True)
    )
    note = f"decoder 6 x 384, {BATCH * CONTEXT} tokens, AdamW"
    return [
        Row("training step: bare", bare, "ms", note=note),
        Row("training step: in the loop, recorded", loop, "ms", peer_ratio=bare / loop, note=note),
        Row("training loop: overhead", overhead * 100, "%", note="the loop's median excess over the bare step"),
    ]


def _parts() -> tuple[Model, torch.optim.Optimizer, Precision]:
    config = decoder.Config(width=384, layers=6, heads=6, context=CONTEXT, vocab_size=VOCABULARY)
    model = build_model(decoder.build, config, 0, CPU)
    return model, adamw.build(adamw.Config(), model), Precision("auto", CPU)


def _batches(position: int) -> Iterator[Batch]:
    tokens = torch.randint(VOCABULARY, (BATCH, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    while True:
        yield {"tokens": tokens[:, :-1].contiguous(), "targets": tokens[:, 1:].contiguous()}


def _bare_seconds() -> float:
    model, optimizer, precision = _parts()
    model.train()
    batches = _batches(0)
    started = 0.0
    for step in range(STEPS + 1):
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            loss = sum(model.training_step(next(batches)).losses.values(), torch.zeros(()))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        loss.item()
        if step == 0:
            started = time.perf_counter()
    return (time.perf_counter() - started) / STEPS


class _Stopwatch(Callback):
    """When each step had ended, all other callbacks included."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def step(self, trainer: Trainer, row: MetricsRow) -> None:
        self.ends.append(time.perf_counter())


def _loop_seconds() -> float:
    model, optimizer, precision = _parts()
    phases, watch = Phases(CPU), _Stopwatch()
    config = TrainConfig(steps=STEPS + 1, batch_size=BATCH, grad_clip=CLIP, schedule="constant")
    with tempfile.TemporaryDirectory() as folder, RunDirectory(folder) as run:
        speed, progress = Speed(phases, time.perf_counter()), Progress(config.steps, enabled=False)
        recording = Recording(run, LogConfig(every=1), speed, progress, (), {})
        Trainer(config, model, optimizer, _batches, precision, phases, callbacks=[recording, watch]).fit()
    return (watch.ends[-1] - watch.ends[0]) / STEPS
