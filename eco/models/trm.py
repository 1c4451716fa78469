"""A tiny recursive model, TRM (arXiv 2510.04871): one small network applied again and again to its own answer.

A step runs `cycles` cycles; a cycle refines the scratch `inner_cycles` times in view of question and answer, then the
answer once in view of the scratch. Only the last cycle carries gradient. Training supervises each step and carries the
state on to the next one, until the model says that the answer is right or gives up.

With `stacks`, `gradient` and `halt` at their other values, 4 layers and 2 x 2 cycles it is HRM (arXiv 2506.21734).
"""

import math
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from eco.config import setting
from eco.kernels.native import compute_dtype
from eco.models.contract import Batch, Carry, Latent, PuzzleModelConfig, RecursiveModel, StepOutput
from eco.models.layers.grades import Grades, grade
from eco.models.layers.post_norm import PostNormStack
from eco.models.layers.puzzle_table import PuzzleTable
from eco.models.layers.rotary import Rotary
from eco.models.layers.shape import check_heads, check_rotary
from eco.models.layers.stablemax import stablemax_cross_entropy
from eco.models.layers.truncated_normal import draw_truncated_normal

ROPE_BASE = 10_000.0


class Config(PuzzleModelConfig):
    """Sizes and choices of a tiny recursive model."""

    family: Literal["trm"] = setting("trm", "Architecture: tiny recursive model.", flat="family")
    width: int = setting(512, "Size of a position's vector.", flat="d-model", gt=0)
    layers: int = setting(2, "Blocks of a stack.", flat="n-layers", gt=0)
    heads: int = setting(8, "Attention heads; divides the width.", flat="n-heads", gt=0)
    expansion: float = setting(4.0, "Units of SwiGLU are 2/3 of this x width, up to a multiple of 256.", gt=0)
    mixer: Literal["attention", "mlp"] = setting("attention", "How positions see each other; mlp: fixed weights.")
    position: Literal["rope", "learned", "none"] = setting("rope", "How a position is told; with mixer mlp not rope.")
    prefix: int = setting(16, "Positions in front of the cells, for the puzzle's vector and as registers.", ge=0)
    puzzle_width: int | None = setting(
        None, "Size of each puzzle's learned vector; 0: none; by default the width, where there is a prefix.", ge=0
    )
    cycles: int = setting(3, "Cycles of a step.", gt=0)
    inner_cycles: int = setting(6, "Updates of the scratch in a cycle.", gt=0)
    max_steps: int = setting(16, "Steps after which training gives a puzzle up.", gt=0)
    exploration: float = setting(0.1, "Share of decisions to halt that must wait for a random step.", ge=0, le=1)
    halt_bias: float = setting(-5.0, "What the halting logits start at.")
    stacks: Literal["shared", "separate"] = setting("shared", "separate: answer and scratch each have their own stack.")
    gradient: Literal["cycle", "last"] = setting("cycle", "last: only the last update of scratch and answer has one.")
    halt: Literal["sure", "continue"] = setting("sure", "continue: halting must beat going on, by Q-learning.")
    latents: Literal[2, 1] = setting(2, "1: the answer is its own scratch.")

    @property
    def positions(self) -> int:
        """S, those of the prefix and the cells."""
        return self.prefix + self.length

    @property
    def resolved_puzzle_width(self) -> int:
        if self.puzzle_width is None:
            return self.width if self.prefix else 0
        return self.puzzle_width

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        if self.mixer == "attention":
            check_heads(self.width, self.heads)
        elif self.position == "rope":
            raise ValueError("mixer mlp has no queries and keys for rope to turn; set position to none or learned")
        if self.position == "rope":
            check_rotary(self.width, self.heads)
        if self.resolved_puzzle_width > self.prefix * self.width:
            raise ValueError(
                f"puzzle_width {self.puzzle_width} does not fit into a prefix of {self.prefix} positions of width "
                f"{self.width}; take at most {self.prefix * self.width}, or a longer prefix"
            )
        return self


class TRM(RecursiveModel):
    """Cells (B, L) int64 of puzzles (B,) int64 -> logits (B, L, V) of the answer's cells, step by step."""

    config: Config
    loss_weights = MappingProxyType({"halt": 0.5, "continue": 0.5})
    carries = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        _check_sizes(config)
        self.config = config
        self.max_steps = config.max_steps
        width, positions = config.width, config.positions
        self.embedding = nn.Embedding(config.vocab_size, width)
        table_width = config.resolved_puzzle_width
        self.puzzle_table = PuzzleTable(config.identifiers, table_width) if table_width else None
        self.position_embedding = nn.Embedding(positions, width) if config.position == "learned" else None
        self.rotary = Rotary(width // config.heads, positions, ROPE_BASE) if config.position == "rope" else None
        stacks = [
            PostNormStack(config.layers, positions, width, config.heads, config.expansion, config.mixer)
            for _ in range(2 if config.stacks == "separate" else 1)
        ]
        self.stack = stacks[0]
        self.answer_stack = stacks[1] if config.stacks == "separate" else None
        self.head = nn.Linear(width, config.vocab_size, bias=False)
        self.halt_head = nn.Linear(width, 2 if config.halt == "continue" else 1)
        # Drawn once and never trained. Without a scratch_start the answer is its own scratch.
        self.answer_start = nn.Buffer(torch.empty(width))
        self.scratch_start = nn.Buffer(torch.empty(width)) if config.latents == 2 else None

    def encode(self, tokens: Tensor, puzzle: Tensor) -> Tensor:
        embedded = self.embedding(tokens)
        embedded = torch.cat((self._prefix(puzzle, embedded), embedded), dim=1)
        if self.position_embedding is not None:  # the sum of two keeps the variance of one
            embedded = (embedded + self.position_embedding.weight) / math.sqrt(2)
        question: Tensor = embedded * math.sqrt(self.config.width)
        return question.to(compute_dtype(question))

    def _prefix(self, puzzle: Tensor, like: Tensor) -> Tensor:
        """(B, P, D): the puzzle's vector, then zeros."""
        size = self.config.prefix * self.config.width
        if self.puzzle_table is None:
            flat = like.new_zeros(len(puzzle), size)
        else:
            vectors: Tensor = self.puzzle_table(puzzle)
            flat = F.pad(vectors, (0, size - vectors.shape[1]))
        return flat.view(len(puzzle), self.config.prefix, self.config.width)

    def start(self, question: Tensor) -> Latent:
        answer = self.answer_start.to(question.dtype).expand_as(question)
        if self.scratch_start is None:
            return Latent(answer, answer)
        return Latent(answer, self.scratch_start.to(question.dtype).expand_as(question))

    def improve(self, question: Tensor, latent: Latent) -> Latent:
        updates = self.config.inner_cycles
        with_gradient = updates if self.config.gradient == "cycle" else 1
        latent = Latent(latent.answer.detach(), latent.scratch.detach())
        with torch.no_grad():
            for _ in range(self.config.cycles - 1):
                latent = self._answer(self._think(question, latent, updates))
            latent = self._think(question, latent, updates - with_gradient)
        with _weights_cast_at_each_use(question.device.type):
            return self._answer(self._think(question, latent, with_gradient))

    def _think(self, question: Tensor, latent: Latent, updates: int) -> Latent:
        """Updates the scratch so many times, each time in view of the question and the answer."""
        injected = question if self.scratch_start is None else latent.answer + question
        scratch = latent.scratch
        for _ in range(updates):
            scratch = self._run(self.stack, scratch + injected)
        return Latent(latent.answer, scratch)

    def _answer(self, latent: Latent) -> Latent:
        """Updates the answer. The question has no part in this: by its absence the shared stack knows what to do."""
        stack = self.stack if self.answer_stack is None else self.answer_stack
        if self.scratch_start is None:
            answer = self._run(stack, latent.scratch)
            return Latent(answer, answer)
        return Latent(self._run(stack, latent.answer + latent.scratch), latent.scratch)

    def _run(self, stack: nn.Module, x: Tensor) -> Tensor:
        rotation = self.rotary(0, x.shape[1]) if self.rotary is not None else None
        y: Tensor = stack(x, rotation, recompute=self.gradient_checkpointing)
        return y

    def read(self, latent: Latent) -> tuple[Tensor, Tensor]:
        return self._cells(latent), self._halting(latent)[:, 0]

    def _cells(self, latent: Latent) -> Tensor:
        logits: Tensor = self.head(latent.answer[:, self.config.prefix :])
        return logits

    def _halting(self, latent: Latent) -> Tensor:
        """Logits in fp32 or wider, read at the first position: (B, 1) of halting, (B, 2) where `halt` is "continue"."""
        logits: Tensor = self.halt_head(latent.answer[:, 0])
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def training_step(self, batch: Batch, carry: Carry | None = None) -> StepOutput:
        """One step of each row.

        Losses: `answer`, stablemax cross-entropy in nats, each row's mean over its cells; `halt`, binary cross-entropy
        of the answer being right; where `halt` is "continue" also `continue`, that of what going on is worth. All are
        means over the rows, to which one without targets adds 0. The published total is answer + 0.5 (halt + continue).

        Metrics, over the rows that end here: exact_accuracy (every cell right), cell_accuracy, halt_accuracy (of saying
        whether it is), halt_steps; and of all rows halted_share.
        """
        question = self.encode(batch["tokens"], batch["puzzle"])
        latent, steps = self._resume(question, batch, carry)
        latent = self.improve(question, latent)
        steps = steps + 1
        logits, halting = self._cells(latent), self._halting(latent)
        grades = grade(logits.detach(), batch["targets"])
        losses = {
            "answer": stablemax_cross_entropy(logits, batch["targets"]).mean(),
            "halt": _binary_cross_entropy(halting[:, 0], grades.right, grades.asked),
        }
        if self.config.halt == "continue":
            worth = self._worth_of_going_on(question, latent, steps)
            losses["continue"] = _binary_cross_entropy(halting[:, 1], worth, grades.asked)
        halted = self._halted(halting.detach(), steps)
        metrics = _metrics(grades, halting.detach()[:, 0] > 0, steps, halted)
        return StepOutput(losses, metrics, self._keep(latent, steps, halted))

    def _resume(self, question: Tensor, batch: Batch, carry: Carry | None) -> tuple[Latent, Tensor]:
        """The state of every row and the steps (B,) it has made; fresh rows start over."""
        latent = self.start(question)
        if carry is None:
            return latent, torch.zeros(len(question), dtype=torch.int64, device=question.device)
        fresh = batch["fresh"]
        new = fresh[:, None, None]
        answer = torch.where(new, latent.answer, carry["answer"])
        scratch = answer if self.scratch_start is None else torch.where(new, latent.scratch, carry["scratch"])
        return Latent(answer, scratch), carry["steps"].masked_fill(fresh, 0)

    def _keep(self, latent: Latent, steps: Tensor, halted: Tensor) -> Carry:
        kept = {"answer": latent.answer.detach(), "steps": steps, "halted": halted}
        return kept if self.scratch_start is None else {**kept, "scratch": latent.scratch.detach()}

    def _halted(self, halting: Tensor, steps: Tensor) -> Tensor:
        """Rows (B,) that are done: they have made all steps, or say so and need not explore."""
        # On the CPU and in one draw: the same rows explore on every device and however the batch is cut.
        explores, until = torch.rand(len(steps), 2, device="cpu").to(steps.device).unbind(1)
        wait = (explores < self.config.exploration) * (2 + until * (self.max_steps - 1)).long()
        says_so = halting[:, 0] > (halting[:, 1] if self.config.halt == "continue" else 0)
        return (steps >= self.max_steps) | (says_so & (steps >= wait))

    @torch.no_grad()
    def _worth_of_going_on(self, question: Tensor, latent: Latent, steps: Tensor) -> Tensor:
        """The probability (B,) of a right answer at the best halt from the next step on, as it is estimated there."""
        halt, go_on = self._halting(self.improve(question, latent)).unbind(1)
        return torch.where(steps >= self.max_steps, halt, torch.maximum(halt, go_on)).sigmoid()

    def init_weights(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                draw_truncated_normal(module.weight, module.in_features**-0.5, generator)
            elif isinstance(module, nn.Embedding):  # the question is multiplied by sqrt(width), to unit variance
                draw_truncated_normal(module.weight, module.embedding_dim**-0.5, generator)
            elif isinstance(module, Rotary):
                module.fill_tables()
            elif isinstance(module, PuzzleTable):
                nn.init.zeros_(module.weight)
        nn.init.zeros_(self.halt_head.weight)
        nn.init.constant_(self.halt_head.bias, self.config.halt_bias)
        for start in (self.answer_start, self.scratch_start):
            if start is not None:
                draw_truncated_normal(start, 1.0, generator)

    def flops_per_token(self) -> float:
        """That of an example, divided by its cells."""
        return self.flops_per_example() / self.config.length

    def flops_per_example(self) -> float:
        """Floating-point operations of one training step of one example: all calls forward, those with gradient back.

        Matrix products and attention only, as `Model.flops_per_token` has it; recomputed activations do not count.
        """
        config = self.config
        forward = config.cycles * (config.inner_cycles + 1) * (2 if config.halt == "continue" else 1)
        backward = config.inner_cycles + 1 if config.gradient == "cycle" else 2
        stack = self.stack.flops(config.positions, config.width)
        return stack * (forward + 2 * backward) + 6.0 * self.head.weight.numel() * config.length


def _weights_cast_at_each_use(device: str) -> torch.autocast:
    """Autocast as it stands, but where there is gradient each use of a weight casts it for itself.

    A cast that is shared would add up the gradients of all uses in 16 bits, and one that the cycles without gradient
    left in the cache may have none at all. A cast costs little beside its product.
    """
    return torch.autocast(
        device,
        dtype=torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
        cache_enabled=not torch.is_grad_enabled(),
    )


def _binary_cross_entropy(logits: Tensor, probability: Tensor, asked: Tensor) -> Tensor:
    """The mean over all rows (B,), in nats; those not asked add 0."""
    losses = F.binary_cross_entropy_with_logits(logits, probability.to(logits.dtype), reduction="none")
    return (losses * asked).mean()


def _metrics(grades: Grades, says_right: Tensor, steps: Tensor, halted: Tensor) -> dict[str, float | Tensor]:
    """(B,) each; all but `halted_share` are NaN in rows that go on."""
    of_ended = {
        "exact_accuracy": grades.right,
        "cell_accuracy": grades.cell_accuracy,
        "halt_accuracy": says_right == grades.right,
        "halt_steps": steps,
    }
    goes_on = ~(halted & grades.asked)
    ended = {name: rows.float().masked_fill(goes_on, math.nan) for name, rows in of_ended.items()}
    return {"halted_share": halted.float(), **ended}


def _check_sizes(config: Config) -> None:
    """Raises ValueError where a size that the puzzles give still stands at 0."""
    sizes = {"vocab_size": config.vocab_size, "length": config.length}
    if config.resolved_puzzle_width:
        sizes["identifiers"] = config.identifiers
    if missing := [name for name, size in sizes.items() if size == 0]:
        raise ValueError(f"{', '.join(missing)} of the model is 0; set it to that of the puzzles")


def build(config: Config) -> TRM:
    """The model of a config, its weights not yet drawn (see `contract.build_model`)."""
    return TRM(config)
