"""One update of the weights, by whichever way of learning the settings name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eco.improve.attempt import Attempt
from eco.improve.config import ImproveConfig
from eco.improve.controls import extra_steps
from eco.improve.learn.expert import Example, Update, learn
from eco.improve.learn.reinforce import Reinforcer
from eco.improve.learn.student import Student, hash_of
from eco.improve.store.row import Row as Verified


@dataclass
class Updates:
    """Changes the student's weights in place; knows nothing of gates and folders."""

    student: Student
    config: ImproveConfig

    def __post_init__(self) -> None:
        self.is_expert = self.config.objective.name == "expert" or self.config.control == "more-pretraining"
        self._reinforcer = None if self.is_expert else Reinforcer(self.student, self.config.objective, self.config.learn)

    def warm_up(self, rows: Sequence[Verified]) -> Update:
        """Learns reference solutions."""
        return self._from_rows(rows, self.config.warmup_steps, 0, 0)

    def update(
        self, round: int, rows: Sequence[Verified], groups: Sequence[Sequence[Attempt]], corpus_first: int
    ) -> Update:
        """What a round learns from: the rows of the store, or its own groups of attempts."""
        if self._reinforcer is None:
            return self._from_rows(rows, self.config.learn.steps, round, corpus_first)
        return self._reinforcer.update(groups, hash_of((self.config.seed, round)), corpus_first)

    def more_pretraining(self, round: int, rows: Sequence[Verified], sampled: int, corpus_first: int) -> Update:
        """As many steps as a round of the method has, and what its sampling would have cost, on what is known."""
        per_step = self.config.learn.rows * self.student.model.config.context
        steps = self.config.learn.steps + extra_steps(sampled, per_step)
        return self._from_rows(rows, steps, round, corpus_first)

    def _from_rows(self, rows: Sequence[Verified], steps: int, round: int, corpus_first: int) -> Update:
        tokenizer = self.student.tokenizer
        examples = [Example.encode(tokenizer, row.prompt, row.completion) for row in rows]
        return learn(
            self.student, examples, self.config.learn, steps, hash_of((self.config.seed, round)), corpus_first
        )

    def state_dict(self) -> dict[str, Any]:
        return self._reinforcer.state_dict() if self._reinforcer else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._reinforcer and state:
            self._reinforcer.load_state_dict(state)
