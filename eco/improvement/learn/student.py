"""What an update works on: the model, and what it takes to change it without unlearning what it knows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import xxhash

from eco.data.tokenizer import Tokenizer
from eco.models.contract import Batch, LanguageModel
from eco.optim.contract import OptimizerConfig
from eco.plugins import find
from eco.training.callbacks import Row
from eco.training.precision import Precision


@dataclass(frozen=True)
class Student:
    """A language model with its corpus.

    corpus: (index, count) -> windows `index` to `index + count - 1` of the recipe's text, an endless order.
    held_out: figures of the model as it is on text held out from training, `val_bits_per_byte` among them.
    rebuild: an equal model with other weights, for loading saved ones into.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    precision: Precision
    optimizer: OptimizerConfig
    corpus: Callable[[int, int], Batch]
    held_out: Callable[[], Row]
    rebuild: Callable[[], LanguageModel]

    def new_optimizer(self, lr: float) -> torch.optim.Optimizer:
        """A fresh optimizer of the recipe's kind: an update that is taken back leaves nothing in its state."""
        config = self.optimizer.model_copy(update={"lr": lr or self.optimizer.lr / 3})
        optimizer: torch.optim.Optimizer = find("optim", config.name).build(config, self.model)
        return optimizer

    def moved(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.precision.device) for name, tensor in batch.items()}

    @contextmanager
    def training(self, seed: Sequence[int]) -> Iterator[None]:
        """Training mode, dropout drawn from `seed`; afterwards mode and random state are as they were."""
        mode = self.model.training
        devices = [self.precision.device] if self.precision.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(hash_of(seed))
            self.model.train()
            try:
                yield
            finally:
                self.model.train(mode)


def hash_of(numbers: Sequence[int]) -> int:
    """One 63-bit seed from several numbers, other numbers giving another one."""
    value = 0
    for number in numbers:
        value = (value * 1_000_003 + number + 1) % 2**63
    return value


def weights_digest(model: LanguageModel) -> str:
    """Names the weights: 32 hexadecimal digits, the same for equal bits."""
    names = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        names.update(name.encode())
        names.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return names.hexdigest()


def scheduled(optimizer: torch.optim.Optimizer, step: int, steps: int, warmup: int) -> None:
    """Sets the learning rate of step `step` of `steps`: a linear rise, then linear decay to a tenth."""
    rise = min(1.0, (step + 1) / max(1, min(warmup, steps)))
    fall = 1 - 0.9 * step / steps
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rise * fall


def clipped_step(student: Student, optimizer: torch.optim.Optimizer, largest: float) -> dict[str, Any]:
    """Clips the gradients that were added up, updates, clears them. A norm that is not finite skips the update."""
    parameters = [p for p in student.model.parameters() if p.requires_grad]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, largest))
    skipped = not torch.isfinite(torch.tensor(norm)).item()
    if not skipped:
        optimizer.step()
    student.model.after_step()
    optimizer.zero_grad(set_to_none=True)
    return {"grad_norm": norm, "skipped": int(skipped)}
