"""The training loop.

One step: take the next samples, add up the gradients of the micro-batches, clip, update. Around it stand callbacks
(evaluation, saving, recording, averaging) and three guards: a loss that is not finite skips its step and in the end
goes back to a checkpoint, a lack of memory halves the micro-batch, a signal ends the loop after the step in hand.

Everything that a bit-exact resume needs is in `state_dict`; dropout draws from a seed that is a function of the step.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from eco.models.contract import Batch, Carry, Model
from eco.observe.phases import Phases
from eco.optim.contract import Measured
from eco.training.callbacks import Callback, Row
from eco.training.config import TrainConfig
from eco.training.distributed import World
from eco.training.feed import Feed
from eco.training.ledger import Ledger
from eco.training.precision import Precision
from eco.training.probe import loss_weights, weighted_total
from eco.training.schedule import learning_rate_factor
from eco.training.signals import GracefulStop

NONFINITE_IN_A_ROW = 3
"""So many steps without a finite loss in a row go back to the last good checkpoint."""

_CLIP_EPS = 1e-6
"""What torch adds to the norm that it divides by."""

STOPPED_ELSEWHERE = "another process stopped"
"""Why a process ends that was not itself asked to: under torchrun a signal may reach one of them first."""


class NonFiniteLoss(RuntimeError):
    """The loss stays NaN or infinite, also after going back to the last good checkpoint."""


class Trainer:
    """Trains `model` on the samples of `source`.

    source: position -> endless iterator over this process's share of each global batch, from that sample number on.
    restore: loads the newest checkpoint into this trainer and returns True, or returns False if there is none.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Model,
        optimizer: torch.optim.Optimizer,
        source: Callable[[int], Iterator[Batch]],
        precision: Precision,
        phases: Phases,
        *,
        callbacks: Sequence[Callback] = (),
        restore: Callable[[], bool] = lambda: False,
        world: World | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.precision = precision
        self.callbacks = list(callbacks)
        self.world = world or World()
        self.phases = phases
        self.ledger = Ledger()
        for name in [*model.features, *(callback.name for callback in self.callbacks if callback.is_feature)]:
            self.ledger.enable(name)
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0
        self.skipped_steps = 0
        self.carry: Carry | None = None
        self.micro_batch = min(config.batch_size, self.world.share(config.samples_per_step))
        if model.carries and self.world.size > 1:
            raise ValueError("a model that works on a sample over several steps trains in one process; leave torchrun")
        self.feed = Feed(source, config.samples_per_step)
        self._restore = restore
        self._note = note
        self._nonfinite_in_a_row = 0
        self._rolled_back_from = -1
        self._stop_reason: str | None = None
        self.ending: str | None = None
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._training_step = torch.compile(model.training_step) if config.compile else model.training_step
        model.gradient_checkpointing = config.gradient_checkpointing

    @property
    def samples_per_step(self) -> int:
        """Samples in one global batch, over all processes and micro-batches."""
        return self.config.samples_per_step

    @property
    def seconds_left(self) -> float:
        """Until the budget of minutes is used up; infinite without one."""
        return 60 * self.config.minutes - self.seconds if self.config.minutes else math.inf

    def stop(self, reason: str) -> None:
        """Asks the loop to end after the step in hand."""
        self._stop_reason = self._stop_reason or reason

    def fit(self) -> str:
        """Runs until the budget is used up, a callback or a signal stops it; returns why it ended.

        Raises:
            NonFiniteLoss: see NONFINITE_IN_A_ROW.
            ValueError: the recipe weighs a loss that the model does not have.
            RuntimeError: out of memory with a micro-batch of one sample, or after the gradients were there.
        """
        self.model.train()
        with GracefulStop() as signals:
            for callback in self.callbacks:
                callback.start(self)
            self.ending = self._budget_used() or self._asked_to_stop(signals)
            while not self.ending:
                began = time.perf_counter()
                row = self._guarded_step()
                self.seconds += time.perf_counter() - began
                self.ending = self._budget_used()
                for callback in self.callbacks:
                    callback.step(self, row) if row else callback.rolled_back(self)
                self.ending = self.ending or self._asked_to_stop(signals)
            for callback in self.callbacks:
                callback.end(self, self.ending)
        return self.ending

    def _budget_used(self) -> str | None:
        config = self.config
        if self.step >= config.steps:
            return "steps"
        if config.tokens and self.tokens >= config.tokens:
            return "tokens"
        if config.minutes and self.world.agree(self.seconds_left <= 0):
            return "minutes"
        return None

    def _asked_to_stop(self, signals: GracefulStop) -> str | None:
        reason = signals.asked or self._stop_reason
        return (reason or STOPPED_ELSEWHERE) if self.world.agree(reason is not None) else None

    def _guarded_step(self) -> Row | None:
        """One step, with the answers to a lack of memory and to a loss that is not finite; None: went back."""
        with self.phases("data"):
            batch = self.feed.next(self.carry)
        before = self.carry
        while (row := self._gradients_unless_out_of_memory(batch)) is None:
            self.micro_batch = max(1, self.micro_batch // 2)
            self._note(f"out of memory: the micro-batch is now {self.micro_batch} samples, accumulated more often")
        with self.phases("train"):
            self._update(batch, row, before)
        self.step += 1
        self.tokens += batch["tokens"].numel() * self.world.size
        if row["skipped"]:
            if self._goes_back():
                return None
        else:
            self._nonfinite_in_a_row = 0
            self._after_update(batch, row)
        row.update(step=self.step, tokens_seen_total=self.tokens, nonfinite_steps_total=self.skipped_steps)
        row.update(micro_batch=self.micro_batch, samples_seen_total=self.feed.position)
        return row

    def _after_update(self, batch: Batch, row: Row) -> None:
        """What looks back at an update; outside of what a lack of memory repeats, for the weights have moved."""
        with self.phases("look_back"):
            for callback in self.callbacks:
                callback.after_update(self, batch, row)
        if isinstance(self.optimizer, Measured):
            row.update(self.optimizer.metrics())

    def _gradients_unless_out_of_memory(self, batch: Batch) -> Row | None:
        try:
            with self.phases("train"):
                return self._gradients(batch)
        except RuntimeError as error:  # torch.OutOfMemoryError on GPUs; the CPU allocator has no type of its own
            if not is_out_of_memory(error) or self.micro_batch == 1:
                raise
        self.model.forget_step()
        if self.precision.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _gradients(self, batch: Batch) -> Row:
        """The first half of a step, which moves no weight: gradients, not yet clipped, and the row with the losses."""
        with self.phases("zero_grad"):
            self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(self._dropout_seed())
        losses, metrics = self._accumulate(batch)
        factor = learning_rate_factor(self.config, self.step, batch["tokens"].numel() * self.world.size)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        row: Row = {"loss": float(losses.pop("total")), "lr": self.optimizer.param_groups[0]["lr"]}
        row.update({f"loss/{name}": float(value) for name, value in losses.items()})
        if self.model.main_losses is not None:
            weights = loss_weights(self.model, losses, self.config.loss_weights, self._warmth())
            row.update({f"loss_weighted/{name}": weights[name] * float(value) for name, value in losses.items()})
        row.update({name: float(value) for name, value in metrics.items()})
        return row

    def _update(self, batch: Batch, row: Row, before: Carry | None) -> None:
        """The other half: clips and updates; outside of what a lack of memory repeats, for it may stop half way.

        before: the carry that the step began with.
        """
        with self.phases("opt_step"):
            self.precision.scaler.unscale_(self.optimizer)
            evidence = self.model.evidence()
            row["grad_norm"] = norm = self._clip()
            scaled = self.precision.scaler.is_enabled()  # fp16: infinite gradients are the scaler's daily business
            row["skipped"] = int(
                self.world.agree(not math.isfinite(row["loss"]) or not (scaled or math.isfinite(norm)))
            )
            if row["skipped"]:
                self.carry = before  # what is not finite would spoil the next steps of the same rows
            else:
                for callback in self.callbacks:
                    callback.before_update(self, batch)
                self.precision.scaler.step(self.optimizer)
                for name, strength in evidence.items():
                    self.ledger.count(name, strength)
            self.precision.scaler.update()
            self.model.after_step(self.world.average)

    def _accumulate(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, float | Tensor]]:
        """Gradients of the whole batch in `.grad`; the mean of every loss, and the metrics."""
        samples = len(batch["tokens"])
        means: dict[str, Tensor] = {}
        metrics: list[dict[str, float | Tensor]] = []
        carries: list[Carry] = []
        for first in range(0, samples, self.micro_batch):
            rows = slice(first, first + self.micro_batch)
            micro = _cut(batch, rows)
            share = len(micro["tokens"]) / samples
            with self.phases("forward"), self.precision.autocast():
                output = self._training_step(micro, _cut(self.carry, rows) if self.carry else None)
                if unknown := sorted(self.config.loss_weights.keys() - output.losses.keys()):
                    raise ValueError(
                        f"train.loss_weights names {', '.join(unknown)}; the losses of this model are: "
                        f"{', '.join(output.losses)}"
                    )
                total = weighted_total(self.model, output.losses, self.config.loss_weights, self._warmth())
            with self.phases("backward"):
                self.precision.scaler.scale(total * share).backward()  # type: ignore[no-untyped-call]
            for name, loss in {"total": total, **output.losses}.items():
                means[name] = means.get(name, 0.0) + loss.detach() * share
            metrics.append(output.metrics)
            carries += [output.carry] if output.carry else []
        self.carry = _joined(carries)  # only now: a batch that ran out of memory is computed again from the old one
        self.world.average(p.grad for p in self._parameters if p.grad is not None)
        self.world.average(means.values())
        return means, _overall(metrics)

    def _warmth(self) -> float:
        """The share of their weight that auxiliary losses have in this step."""
        steps = round(self.config.auxiliary_warmup * self.config.steps)
        return min(1.0, (self.step + 1) / (steps + 1))

    def _dropout_seed(self) -> int:
        """Dropout draws from torch's default generator, seeded anew for each step: a resume needs no other state."""
        return ((self.config.seed * 1_000_003 + self.step) * 1_000_003 + self.world.rank) % 2**63

    def _clip(self) -> float:
        """Clips to the largest norm allowed, returns the norm before clipping."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        total = torch.nn.utils.get_total_norm(gradients)
        largest = self.config.grad_clip or math.inf
        if (norm := float(total)) + _CLIP_EPS > largest:  # else it would multiply all of them by 1
            torch.nn.utils.clip_grads_with_norm_(self._parameters, largest, total)
        return norm

    def _goes_back(self) -> bool:
        """Counts a skipped step; after too many in a row, restores the newest checkpoint except its data position."""
        self.skipped_steps += 1
        self._nonfinite_in_a_row += 1
        self._note(f"step {self.step}: the loss is not finite; the step is skipped")
        if self._nonfinite_in_a_row < NONFINITE_IN_A_ROW:
            return False
        failed, position, skipped = self.step, self.feed.position, self.skipped_steps
        in_vain = failed <= self._rolled_back_from
        if in_vain or not self._restore():
            why = "going back to a checkpoint did not help" if in_vain else "there is no checkpoint to go back to"
            raise NonFiniteLoss(
                f"the loss is not finite for {NONFINITE_IN_A_ROW} steps in a row, at step {failed}, and {why}; "
                "a lower --lr, a longer --warmup-steps or --precision fp32 often mends it"
            )
        self._rolled_back_from = failed + NONFINITE_IN_A_ROW
        self.feed.position, self.skipped_steps, self._nonfinite_in_a_row = position, skipped, 0
        self._note(f"back to the checkpoint of step {self.step}, going on with the samples after {position}")
        return True

    def state_dict(self) -> dict[str, Any]:
        """All state of the loop beside model and optimizer: numbers, and the tensors of carry and callbacks."""
        return {
            "step": self.step, "position": self.feed.position, "tokens": self.tokens, "seconds": self.seconds,
            "skipped_steps": self.skipped_steps, "nonfinite_in_a_row": self._nonfinite_in_a_row,
            "rolled_back_from": self._rolled_back_from,
            "carry": self.carry, "rows": self.feed.rows if self.carry else None,
            "batch_size": self.config.batch_size, "micro_batch": self.micro_batch,
            "scaler": self.precision.scaler.state_dict(), "ledger": self.ledger.state_dict(),
            "callbacks": {c.name: c.state_dict() for c in self.callbacks if c.name},
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.feed.position, self.tokens = state["step"], state["position"], state["tokens"]
        self.seconds, self.skipped_steps = state["seconds"], state["skipped_steps"]
        self._nonfinite_in_a_row, self._rolled_back_from = state["nonfinite_in_a_row"], state["rolled_back_from"]
        if state["batch_size"] == self.config.batch_size:  # else the new size has yet to show whether it fits
            self.micro_batch = state["micro_batch"]
        self._take_up(state["carry"], state["rows"])
        if state["scaler"]:
            self.precision.scaler.load_state_dict(state["scaler"])
        for callback in self.callbacks:
            if callback.name in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.name])
        self.ledger.load_state_dict(state["ledger"])

    def _take_up(self, carry: Carry | None, rows: Batch | None) -> None:
        """Goes on with the samples that a model was working on; a batch of another size starts with new ones."""
        same_size = carry and rows and len(rows["tokens"]) == self.world.share(self.samples_per_step)
        device = self.precision.device
        self.carry = _moved(carry, device) if carry and same_size else None
        self.feed.rows = _moved(rows, device) if rows and same_size else {}


def _cut(tensors: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: tensor[rows] for name, tensor in tensors.items()}


def _joined(parts: list[Carry]) -> Carry | None:
    """The carries of the micro-batches as that of the batch; None where there are none."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _overall(parts: list[dict[str, float | Tensor]]) -> dict[str, float | Tensor]:
    """The metrics of the batch: the mean over the rows that have one; of a scalar the last micro-batch's."""
    metrics: dict[str, float | Tensor] = {}
    for name, last in parts[-1].items():
        if isinstance(last, Tensor) and last.ndim:
            rows = torch.cat([torch.as_tensor(part[name]) for part in parts])
            mean = rows.nanmean()
            metrics |= {} if mean.isnan() else {name: mean}
        else:
            metrics[name] = last
    return metrics


def _moved(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def is_out_of_memory(error: RuntimeError) -> bool:
    """True for torch's out-of-memory errors: the GPU's, and those that the CPU's libraries report only in words."""
    words = ("can't allocate memory", "bad_alloc", "could not create a memory", "could not create a primitive")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
