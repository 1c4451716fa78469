"""Counterfactual credit: by what each block of an update did for a held-out loss, C3O scales the next ones.

The loss is that of windows of text which neither training nor evaluation reads. `eco.training.counterfactual` says what
credit is and predicts it for all blocks from one backward pass; an audit measures it for a few blocks, and where the
prediction does not hold the optimizer does without credit until a later audit finds that it does.
"""

from collections.abc import Callable, Set
from typing import Any

import torch
from torch import Tensor, nn

from eco.models.contract import Batch
from eco.optim.c3o import C3O
from eco.training.callbacks import Callback, Row
from eco.training.config import CreditConfig
from eco.training.counterfactual import Prediction, correlation, measured, predicted, spread_sample
from eco.training.probe import Probe
from eco.training.trainer import Trainer

TRUSTED = 0.3
"""Least correlation of predicted and measured credit in an audit; below it the optimizer's gain is 0."""

SIGNIFICANT = 2.0
"""Least |t| of a block's mean credit over the measurements; below it the block counts as average."""

FEWEST = 4
"""Measurements before the first audit and the first credit: the spread of fewer says nothing."""


class Credit(Callback):
    """Feature `c3o_credit`: measures the credit of all blocks every `every` steps and hands it to the optimizer.

    What counts is the share of its reach that a block gained: how far what it learnt holds for other text. So neither
    its size nor its scale matters, and blocks with great gradients have no advantage; by gain per element these would
    grow, which undoes what Adam is for. The shares are standardised across the blocks of each tensor, as C3O moves
    steps within tensors and not between them, cut at +-`clip`, and averaged over the measurements; a mean that its own
    spread does not tell from 0 counts as 0. A tensor of one block has nothing to compare.

    Under torchrun every process measures on the same windows, and what counts is the mean of their findings: one that
    rounds otherwise would scale otherwise, and the weights would drift apart.
    Evidence: standard deviation of the scales that the update in hand was made with.
    """

    name = "c3o_credit"
    is_feature = True

    def __init__(
        self,
        optimizer: C3O,
        exact: Probe,
        windows: Callable[[int, int], Batch],
        compared: Set[nn.Parameter],
        config: CreditConfig,
        seed: int,
    ) -> None:
        """
        compared: the parameters whose blocks are to be scaled; all of them are measured and audited.
        exact: a probe in fp32, for differences of losses as small as those of one block.
        windows: (index, count) -> so many windows, from the given one on, of an endless order, on the model's device.

        Raises:
            ValueError: no tensor that is compared has two blocks.
        """
        counts = [len(offsets) - 1 for offsets in optimizer.blocks.values()]
        several = [count > 1 and p in compared for p, count in zip(optimizer.blocks, counts, strict=True)]
        if not any(several):
            raise ValueError("c3o credit compares the blocks of a tensor, and none has two; lower --c3o-block-size")
        device = next(iter(optimizer.blocks)).device
        self.config = config
        self._optimizer, self._exact, self._windows = optimizer, exact, windows
        self._seed = seed
        self._granted = optimizer.gain
        self._blocks = torch.tensor(counts, device=device)
        self._compared = torch.tensor(several, device=device).repeat_interleave(self._blocks)
        self._count = 0
        self._mean = torch.zeros(sum(counts), dtype=torch.float64, device=device)
        self._square = self._mean.clone()
        self._usual_gain = 0.0
        self._correlation: float | None = None

    def after_update(self, trainer: Trainer, batch: Batch, row: Row) -> None:
        step, config = trainer.step, self.config
        if step % config.every:
            return
        windows = self._windows(step // config.every * config.windows, config.windows)
        tokens = batch["tokens"].numel() * trainer.world.size
        probe = Probe(trainer.model, trainer.precision, trainer.micro_batch)
        guess = predicted(self._optimizer, probe, windows, tokens)
        trainer.world.average(guess)
        self._remember(guess)
        if self._count == FEWEST or step % config.audit_every < config.every:
            dice = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
            blocks = spread_sample(guess.credit, config.audit_blocks, dice)
            found = measured(self._optimizer, trainer.model, self._exact, windows, blocks)
            trainer.world.average([found])
            self._judge(correlation(guess.credit[blocks], found))
        scores, t = self._scores()
        self._hand_over(scores)
        trainer.ledger.count(self.name, self._optimizer.metrics()["c3o_block_scale_std"])
        row.update(self._figures(guess.credit, scores, t))

    def _remember(self, guess: Prediction) -> None:
        """One measurement more in the means of the standardised shares and of their squares."""
        shares = torch.where(guess.reach > 0, guess.credit / guess.reach, 0.0)
        figures = self._standardised(shares).clamp(-self.config.clip, self.config.clip)
        self._count += 1
        self._mean.lerp_(figures, 1 - self.config.ema_beta)
        self._square.lerp_(figures.square(), 1 - self.config.ema_beta)

    def _standardised(self, values: Tensor) -> Tensor:
        """(blocks,) in standard deviations from the mean over the blocks of the same tensor; 0 where all are equal."""
        off = values - self._tensor_mean(values)
        spread = self._tensor_mean(off.square()).sqrt()
        return torch.where(spread > 0, off / spread, 0.0)

    def _tensor_mean(self, values: Tensor) -> Tensor:
        return torch.segment_reduce(values, "mean", lengths=self._blocks).repeat_interleave(self._blocks)

    def _scores(self) -> tuple[Tensor, Tensor]:
        """(blocks,) z-scores for the optimizer; (blocks,) the t-statistics that were or were not enough for one."""
        beta = self.config.ema_beta
        started = 1 - beta**self._count
        mean = self._mean / started
        variance = (self._square / started - mean.square()).clamp(min=1e-4)  # of two blocks it would often be 0
        independent = (1 + beta) / (1 - beta) * started / (2 - started)  # measurements that the mean is worth
        t = mean * ((independent - 1) / variance).sqrt()
        heard = self._compared & (t.abs() >= SIGNIFICANT) & (self._count >= FEWEST)
        return torch.where(heard, mean, 0.0), t

    def _judge(self, correlation: float | None) -> None:
        """None: there was no audit yet."""
        self._correlation = correlation
        self._optimizer.gain = 0.0 if correlation is not None and correlation < TRUSTED else self._granted

    def _hand_over(self, scores: Tensor) -> None:
        parts = torch.split(scores, self._blocks.tolist())
        self._optimizer.set_credit(dict(zip(self._optimizer.blocks, parts, strict=True)))

    def _figures(self, credit: Tensor, scores: Tensor, t: Tensor) -> Row:
        """The row's: mean size of the scores; mean |t|, 0.8 where there is nothing but noise; gain of the whole update
        in nats, and how far it is from its own mean; the optimizer's gain and what the last audit found."""
        compared = self._compared
        figures = [scores[compared].abs().mean(), t[compared].abs().mean(), credit.sum()]
        signal, t_statistic, gain = torch.stack(figures).tolist()
        self._usual_gain += (1 - self.config.ema_beta) * (gain - self._usual_gain)
        usual = self._usual_gain / (1 - self.config.ema_beta**self._count)
        row = {
            "c3o_credit_signal": signal,
            "c3o_credit_t": t_statistic,
            "c3o_loss_gain": gain,
            "c3o_credit_centered": gain - usual,
            "c3o_credit_gain": self._optimizer.gain,
        }
        return row if self._correlation is None else row | {"c3o_credit_audit_corr": self._correlation}

    def state_dict(self) -> dict[str, Any]:
        return {
            "blocks": self._blocks, "count": self._count, "mean": self._mean, "square": self._square,
            "usual_gain": self._usual_gain, "correlation": self._correlation,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what was measured; if the blocks are others now, measuring begins anew, also for the optimizer."""
        if state["blocks"].tolist() != self._blocks.tolist():
            self._optimizer.forget_credit()
            return
        self._count, self._usual_gain = state["count"], state["usual_gain"]
        self._mean.copy_(state["mean"])
        self._square.copy_(state["square"])
        self._judge(state["correlation"])
