"""What a round learns from: answers to its tasks, judged; or, in a control, judged by chance."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from eco.data.tokenizer import Tokenizer
from eco.improvement.attempt import Attempt
from eco.improvement.config import ImproveConfig
from eco.improvement.controls import shuffled
from eco.improvement.learn.student import hash_of
from eco.improvement.majority import by_majority
from eco.improvement.repair import retries
from eco.improvement.rollout import attempt, refine
from eco.inference.engine import Engine
from eco.sandbox import Sandbox
from eco.tasks.contract import Task


@dataclass(frozen=True)
class Drawn:
    """groups: the attempts at each task, which a policy gradient learns from.
    further: attempts after an error was shown, and the drafts of igrpo; they too may be admitted to the store.
    tokens: read and sampled for all of them.
    """

    groups: Sequence[Sequence[Attempt]]
    further: Sequence[Attempt] = ()
    tokens: int = 0

    @property
    def attempts(self) -> list[Attempt]:
        return [*flat(self.groups), *self.further]

    @property
    def passed(self) -> int:
        return sum(attempt.passed for attempt in self.attempts)


def draw(engine: Engine, tasks: Sequence[Task], sandbox: Sandbox, config: ImproveConfig, round: int) -> Drawn:
    """All attempts of a round at `tasks`, in their order, labelled as the config says."""
    seed = hash_of((config.seed, round))
    sampling = config.sampling(seed)
    groups = _labelled(attempt(engine, tasks, sandbox, sampling, config.samples), sandbox, config)
    further: list[Attempt] = []
    if config.max_retries:
        further += flat(retries(engine, groups, sandbox, sampling, config.max_retries))
    if config.objective.name == "igrpo":
        if config.control == "random-reward":  # the best draft of each task is shown: best by chance too
            groups = shuffled(groups, hash_of((seed, 0)))
        further += flat(groups)
        groups = _labelled(refine(engine, groups, sandbox, sampling, config.samples), sandbox, config)
    if config.control == "random-reward":
        *groups, further = shuffled([*groups, further], seed)
    return Drawn(groups, further, token_count([*flat(groups), *further]))


def _labelled(groups: list[list[Attempt]], sandbox: Sandbox, config: ImproveConfig) -> list[list[Attempt]]:
    """What decides is what the hidden tests said, or nothing but a vote among the attempts."""
    return by_majority(groups, sandbox) if config.labels == "majority" else groups


def flat(groups: Sequence[Sequence[Attempt]]) -> list[Attempt]:
    return [attempt for group in groups for attempt in group]


def token_count(attempts: Sequence[Attempt]) -> int:
    """Tokens read and sampled; a prompt is read once for all its samples."""
    prompts = {attempt.prompt: len(attempt.completion.prompt) for attempt in attempts}
    return sum(prompts.values()) + sum(len(attempt.completion.tokens) for attempt in attempts)


def most_tokens(tasks: Sequence[Task], tokenizer: Tokenizer, config: ImproveConfig) -> int:
    """What `token_count` comes to at most, before anything is drawn, with every completion at its full length."""
    prompts = sum(len(tokenizer.encode(task.prompt)) for task in tasks)
    rounds = 1 + config.max_retries + (config.objective.name == "igrpo")
    return rounds * (prompts + len(tasks) * config.samples * config.max_new_tokens)


def why_nothing_passed(drawn: Drawn, config: ImproveConfig) -> str:
    """What to say, and what to try, where there is nothing to learn from."""
    outcomes = Counter(attempt.verdict.outcome for attempt in drawn.attempts)
    if not outcomes:
        return f"no attempt at {config.tasks} was drawn: no prompt of the round leaves room in the model's context"
    if set(outcomes) == {"infrastructure"}:
        return f"the sandbox could judge none of the attempts: {drawn.attempts[0].verdict.detail}"
    ended = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    return (
        f"none of {sum(outcomes.values())} attempts at {config.tasks} passed ({ended}), so there is nothing to learn "
        "from, and nothing was changed; take easier tasks, such as --improve-tasks synthesis:1, let the model learn "
        "some reference solutions first (--warmup-tasks 200 --improve-warmup-steps 60), or train it for longer"
    )
