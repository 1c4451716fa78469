"""One update of the weights, by whichever way of learning the settings name."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from eco.improvement.attempt import Attempt
from eco.improvement.config import ImproveConfig
from eco.improvement.controls import extra_steps, shuffled
from eco.improvement.draw import Drawn
from eco.improvement.learn.advantages import reward
from eco.improvement.learn.expert import Example, Update, learn, tokens_per_step
from eco.improvement.learn.reinforce import Reinforcer
from eco.improvement.learn.student import Student, hash_of
from eco.improvement.store.draw import training_rows
from eco.improvement.store.row import Row
from eco.inference.completion import Completion
from eco.sandbox import Sandbox
from eco.tasks.contract import Task


class Updates:
    """Changes the student's weights in place; knows nothing of gates and folders.

    by_trl: a round's attempts and its update are made by `draw_and_update_with_trl`.
    """

    def __init__(self, student: Student, config: ImproveConfig) -> None:
        """
        Raises:
            ValueError: TRL is to make the updates, and is missing.
        """
        self.student = student
        self.config = config
        by_policy = config.objective.name != "expert" and config.control not in ("more-pretraining", "frozen")
        self.by_trl = by_policy and config.learn.backend == "trl"
        if self.by_trl:
            import_module("eco.improvement.learn.trl")  # says what is missing before anything is drawn
        internal = by_policy and not self.by_trl
        self._reinforcer = Reinforcer(student, config.objective, config.learn, config.sampling(0)) if internal else None
        self._unlearnt = self.state_dict()

    def from_rows(self, rows: Sequence[Row], steps: int, round: int, corpus_first: int) -> Update:
        """Learns rows of the store, new ones more often, beside the corpus."""
        seed = hash_of((self.config.seed, round))
        return learn(self.student, self._dealt(rows, steps, round), self.config.learn, steps, seed, corpus_first)

    def from_round(self, rows: Sequence[Row], drawn: Drawn, round: int, corpus_first: int) -> Update:
        """The update of a round: from the store, from the round's own groups, or a control's."""
        steps = self.config.learn.steps
        if self.config.control == "frozen":
            return Update({}, 0, 0)
        if self.config.control == "more-pretraining":
            known = [row for row in rows if row.source == "reference"]
            dealt, context = self._dealt(known, steps, round), self.student.model.config.context
            more = extra_steps(drawn.tokens, tokens_per_step(dealt, self.config.learn, context))
            return self.from_rows(known, steps + more, round, corpus_first)
        if self._reinforcer:
            return self._reinforcer.update(drawn.groups, hash_of((self.config.seed, round)), corpus_first)
        return self.from_rows(rows, steps, round, corpus_first)

    def observe(self, gain: float) -> None:
        """What the last update brought on held-out tasks."""
        if self._reinforcer:
            self._reinforcer.observe(gain)

    def state_dict(self) -> dict[str, Any]:
        return self._reinforcer.state_dict() if self._reinforcer else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up a state; an empty one, as the start of an arm without such a part has it, is the first of all."""
        if self._reinforcer:
            self._reinforcer.load_state_dict(state or self._unlearnt)

    def _dealt(self, rows: Sequence[Row], steps: int, round: int) -> list[Example]:
        """The examples of `steps` steps."""
        count, half_life = steps * self.config.learn.rows, self.config.store.half_life
        chosen = training_rows(rows, count, round=round, seed=self.config.seed, half_life=half_life)
        return [Example.encode(self.student.tokenizer, row.prompt, row.completion) for row in chosen]


def draw_and_update_with_trl(
    student: Student, config: ImproveConfig, tasks: Sequence[Task], sandbox: Sandbox, round: int, folder: Path
) -> tuple[Drawn, Update]:
    """A round's attempts and its update in one: TRL asks for both by turns.

    Raises:
        ValueError: TRL is missing, or lacks the objective.
    """
    from eco.improvement.learn.trl import update_with_trl  # needs the extra hf

    groups: dict[str, list[Attempt]] = {}

    def rewards(answers: Sequence[tuple[Task, str]]) -> list[float | None]:
        with ThreadPoolExecutor(sandbox.workers, "check") as pool:
            verdicts = list(pool.map(lambda answer: answer[0].check(answer[1], sandbox), answers))
        made = [Attempt(task, task.prompt, Completion(text, [], [], [], "stop"), verdict)
                for (task, text), verdict in zip(answers, verdicts, strict=True)]  # fmt: skip
        if config.control == "random-reward":
            (made,) = shuffled([made], hash_of((config.seed, round, sum(map(len, groups.values())))))
        for one in made:
            groups.setdefault(one.task.name, []).append(one)
        return [reward(one, config.objective) if one.judged else None for one in made]

    objective, learning = config.objective, config.learn
    row = update_with_trl(
        student, tasks, rewards, objective.name, learning, kl_weight=objective.kl_weight, samples=config.samples,
        sampling=config.sampling(hash_of((config.seed, round))), folder=folder,
    )  # fmt: skip
    sampled, unjudged = row.pop("sampled_tokens"), row.pop("unjudged")
    drawn = Drawn([groups.get(task.name, []) for task in tasks], tokens=sampled)
    return drawn, Update(row | {"unjudged": unjudged}, sampled, 0)
