"""What Sophia needs beside the gradients of its batch: samples of the curvature, and how the loss took its steps.

The Gauss-Newton-Bartlett estimate (arXiv 2305.14342, algorithm 2) asks the model's own predictions for labels: with
them the loss has no gradient on average, and B times the square of the gradient over B labels has as its mean the
diagonal of the Gauss-Newton matrix of the loss.
"""

import torch
from torch import Tensor

from eco.models.contract import IGNORE, Batch, LanguageModel, Model, evaluating
from eco.optim.gnprox import Config
from eco.optim.parts.sophia import Sophia
from eco.training.callbacks import Callback, Row
from eco.training.precision import Precision
from eco.training.probe import Probe
from eco.training.trainer import Trainer

LOGITS = 1 << 24
"""So many logits are computed at a time: 64 MiB."""


class Curvature(Callback):
    """Feature `gnprox`: samples the curvature every `sophia_every` steps, from the first on, after the update; judges
    the damping every `damping_every` steps by the loss of the step's batch before and after it.

    Both work in evaluation mode and draw from a seed that is a function of the step: all state is the optimizer's.
    Evidence: the mean of the sampled curvature.
    """

    name = "gnprox"
    is_feature = True

    def __init__(self, optimizer: Sophia, config: Config, model: Model, precision: Precision) -> None:
        """
        Raises:
            ValueError: no language model, so there are no labels to draw; or fp16, whose small gradients are lost.
        """
        if not isinstance(model, LanguageModel):
            raise ValueError(
                f"optimizer gnprox draws labels from a language model's predictions, and model.family "
                f"{model.config.family} is none; take optimizer.name adamw or adam_atan2"
            )
        if precision.scaler.is_enabled():
            raise ValueError("optimizer gnprox does not scale its loss, which fp16 needs; take --precision bf16")
        self._optimizer, self._config, self._model, self._precision = optimizer, config, model, precision
        self._before: float | None = None

    def before_update(self, trainer: Trainer, batch: Batch) -> None:
        self._optimizer.measure = trainer.step % self._config.damping_every == 0
        self._before = self._probe(trainer).loss(batch) if self._optimizer.measure else None

    def after_update(self, trainer: Trainer, batch: Batch, row: Row) -> None:
        if self._before is not None:
            self._judge(trainer, self._before - self._probe(trainer).loss(batch), row)
        if (trainer.step - 1) % self._config.sophia_every == 0:
            self._sample(trainer, {name: tensor[: self._config.sophia_samples] for name, tensor in batch.items()})

    def _judge(self, trainer: Trainer, gained: float, row: Row) -> None:
        outcome = self._optimizer.outcome
        assert outcome is not None, "the step was measured"
        actual = torch.tensor([gained], dtype=torch.float64, device=self._precision.device)
        trainer.world.average([actual])
        # The optimizer saw clipped gradients; the loss falls by its own.
        clipped = max(1.0, row["grad_norm"] / trainer.config.grad_clip) if trainer.config.grad_clip else 1.0
        ratio = self._optimizer.damping.judge(outcome.linear * clipped, outcome.quadratic, float(actual))
        if ratio is not None:
            row["gnprox_reduction_ratio"] = ratio

    def _sample(self, trainer: Trainer, batch: Batch) -> None:
        seed = ((trainer.config.seed * 1_000_003 + trainer.step) * 1_000_003 + trainer.world.rank) % 2**63
        generator = torch.Generator().manual_seed(seed)
        labels = sampled_labels(self._model, self._precision, batch, generator)
        self._probe(trainer).backward({**batch, "targets": labels})
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        trainer.world.average(gradients)
        if not torch.nn.utils.get_total_norm(gradients).isfinite():
            return  # the curvature would remember it for ever
        count = int((labels != IGNORE).sum()) * trainer.world.size
        trainer.ledger.count(self.name, self._optimizer.refresh(count))

    def _probe(self, trainer: Trainer) -> Probe:
        return Probe(self._model, self._precision, trainer.micro_batch, trainer.config.loss_weights)


@torch.no_grad()
def sampled_labels(model: LanguageModel, precision: Precision, batch: Batch, generator: torch.Generator) -> Tensor:
    """Labels (B, T) int64 drawn from the predictions of `model` in evaluation mode, IGNORE where the targets are.

    generator: on the CPU; it draws one number for each label, so that devices agree but for rounding.
    """
    tokens, targets = batch["tokens"], batch["targets"]
    chance = torch.rand(tokens.shape, generator=generator).to(tokens.device)
    rows = max(1, LOGITS // (tokens.shape[1] * model.config.vocab_size))
    drawn = []
    with evaluating(model):
        for part, level in zip(torch.split(tokens, rows), torch.split(chance, rows), strict=True):
            with precision.autocast():
                logits = model(part)
            cumulative = logits.float().softmax(-1).cumsum(-1)
            level = level[..., None] * cumulative[..., -1:]  # which is 1, but for rounding
            drawn.append(torch.searchsorted(cumulative, level, right=True)[..., 0].clamp_max_(logits.shape[-1] - 1))
    return torch.cat(drawn).where(targets != IGNORE, targets)
