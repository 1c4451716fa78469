"""The tasks of a run of the loop, apart by what they are for: learning, the gate, the final figures, canaries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eco.data.tokenizer import Tokenizer
from eco.improvement.canaries import canaries
from eco.improvement.config import ImproveConfig
from eco.tasks.contract import Split, Task
from eco.tasks.sets import SetName


@dataclass(frozen=True)
class Suites:
    """warmup: learnt from their reference solutions before the first round. pool: what the rounds choose from.

    gate, test: held-out tasks by the name of their set. The gate chooses by the first and so fits itself to them; the
    figures that are reported come from the second, which share no task with it.
    canaries: tasks without a solution. benchmarks: what the store must not resemble beside the held-out tasks.
    """

    warmup: Sequence[Task]
    pool: Sequence[Task]
    gate: Mapping[str, Sequence[Task]]
    test: Mapping[str, Sequence[Task]]
    canaries: Sequence[Task]
    benchmarks: Sequence[Task] = ()

    @property
    def learnt(self) -> str:
        """The first set: the one whose gain decides."""
        return next(iter(self.gate))

    @property
    def held_out(self) -> list[Task]:
        """All that no row of the store may resemble."""
        measured = [task for suites in (self.gate, self.test) for tasks in suites.values() for task in tasks]
        return [*measured, *self.benchmarks]


def open_suites(config: ImproveConfig, tokenizer: Tokenizer, context: int) -> Suites:
    """The tasks that a config names, those of the pool that the model has room for.

    Raises:
        ValueError: a set that cannot be had; tasks that take more tokens than the context has.
    """
    learnt, others = _names(config.tasks), _names(config.domains)
    if len({*learnt, *others}) < len(learnt) + len(others):
        raise ValueError(f"improve.tasks {config.tasks} and improve.domains {config.domains} name a set twice")
    drawn = [task for name in learnt for task in _open(name, "train", config.pool, config.seed, "improve.pool")]
    pool = _with_room(drawn, tokenizer, context, config.tasks)
    gate, test = {}, {}
    for name in [*learnt, *others]:
        twice = 2 * config.gate.held_out_tasks
        held_out = _open(
            name, "held_out", twice, config.seed, "improve.gate.held_out_tasks, of which twice as many are"
        )
        if len(held_out) < 2:
            raise ValueError(f"{name} has {len(held_out)} held-out tasks; the gate and the final figures need one each")
        gate[str(name)], test[str(name)] = held_out[::2], held_out[1::2]
    if len(pool) <= config.warmup_tasks:
        raise ValueError(
            f"improve.warmup_tasks {config.warmup_tasks} leaves none of the {len(pool)} tasks of {config.tasks} to "
            "improve on; lower it, or raise improve.pool"
        )
    return Suites(
        warmup=pool[: config.warmup_tasks],
        pool=pool[config.warmup_tasks :],
        gate=gate,
        test=test,
        canaries=canaries(pool, config.gate.canaries, config.seed),
        benchmarks=[task for name in _names(config.benchmarks) for task in name.open("held_out", 0, config.seed)],
    )


def _open(name: SetName, split: Split, count: int, seed: int, asking: str) -> list[Task]:
    try:
        return name.open(split, count, seed)
    except ValueError as error:
        raise ValueError(f"{error} ({asking} asked for)") from error


def _names(text: str) -> list[SetName]:
    return [SetName.parse(name) for name in text.split(",") if name.strip()]


def _with_room(tasks: Sequence[Task], tokenizer: Tokenizer, context: int, named: str) -> list[Task]:
    """The tasks whose prompt and solution fit into the context."""
    lengths = [len(tokenizer.encode(task.prompt + task.solution())) + 1 for task in tasks]
    fitting = [task for task, length in zip(tasks, lengths, strict=True) if length <= context]
    if len(fitting) < len(tasks) / 2:
        raise ValueError(
            f"only {len(fitting)} of {len(tasks)} tasks of {named} fit into the model's context of {context} tokens: "
            f"with this tokenizer one takes {sum(lengths) / len(lengths):.0f} on average, {max(lengths)} at most; "
            "train a model with a larger model.context, or a tokenizer on text like these tasks"
        )
    return fitting
