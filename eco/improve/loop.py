"""The loop: one round from the choice of tasks to the decision, and what stands before the first and after the last.

A round depends on the head it starts from, the settings and the round's number, and on nothing else: a round that was
killed is done again and comes out the same. What it writes is seen only once the head, one small file, is replaced.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from eco.files import replacing
from eco.improve.attempt import Attempt
from eco.improve.config import ImproveConfig
from eco.improve.controls import shuffled
from eco.improve.curriculum import Curriculum
from eco.improve.decisions import Decisions
from eco.improve.gate import Decision, Facts, decide, reload_difference, weights_are_finite
from eco.improve.head import Head
from eco.improve.learn.expert import Update
from eco.improve.learn.student import Student, hash_of
from eco.improve.majority import by_majority
from eco.improve.measure import Measurement, measure
from eco.improve.repair import retries
from eco.improve.rollout import attempt, refine
from eco.improve.store.versions import VerifiedStore
from eco.improve.suites import Suites
from eco.improve.update import Updates
from eco.inference.engine import Engine
from eco.sandbox import Sandbox
from eco.tasks.contract import Task
from eco.training.callbacks import Row
from eco.training.checkpoint import Checkpoints

HEAD, START = "head.json", "start.json"

_TEST, _GATE = -1, -2
"""Numbers of the sampling for measurement, apart from the rounds'."""


class NothingPasses(ValueError):
    """No attempt of a round passed, so that there is nothing to learn from."""


class CanaryPassed(ValueError):
    """A task without a solution was passed: the check has a hole, and what it admitted is worth nothing."""


class Loop:
    """Improves `student` in place, round by round, and writes what it does into `folder`.

        folder/head.json        where it stands: replaced whole at the end of each round
        folder/checkpoints/     weights of the head, and of the latest candidate
        folder/store/           what was verified, version by version
        folder/attempts/        every attempt of each round with its verdict
        folder/decisions.jsonl  each round's decision with its evidence

    say: takes a line for people.
    """

    def __init__(
        self,
        config: ImproveConfig,
        student: Student,
        suites: Suites,
        sandbox: Sandbox,
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        """
        Raises:
            ValueError: what lies in the folder is damaged.
        """
        self.config = config
        self.student = student
        self.suites = suites
        self.folder = folder
        self.engine = Engine(student.model, student.tokenizer)
        self.updates = Updates(student, config)
        self.curriculum = Curriculum(len(suites.pool), config.curriculum, config.seed)
        self._sandbox = sandbox
        self._say = say
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "attempts").mkdir(exist_ok=True)
        self.store = VerifiedStore(folder / "store")
        self.decisions = Decisions(folder / "decisions.jsonl")
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=2**31)  # what is no longer needed goes by _prune
        self.head = Head.read(folder / "head.json")

    def begin(self) -> None:
        """Goes on where the folder stands; or learns the warm-up tasks and takes the first measurements.

        Raises:
            ValueError: a checkpoint or the store is damaged.
            CanaryPassed: see there.
        """
        if self.head:
            self._go_back_to(self.head)
            self._load_weights(self.head.weights)
            return
        self.head = Head()
        self._forget_after(-1)
        began = time.monotonic()
        if self.suites.warmup:
            self._warm_up(self.head)
        self.checkpoints.save(0, {"model": self.student.model.state_dict()})
        measured = self._measure(self.suites.gate, _GATE)
        self._refuse_passed_canaries(0)
        self.head.start = self.head.current = measured.as_json()
        self.head.best = {name: suite.pass_at_1 for name, suite in measured.suites.items()}
        self.head.test_before = self._measure(self.suites.test, _TEST).as_json()
        self.head.curriculum, self.head.learner = self.curriculum.state_dict(), self.updates.state_dict()
        self.head.seconds = time.monotonic() - began
        self.head.write(self.folder / START)
        self.head.write(self.folder / HEAD)
        self._say(f"before the first round: {self._told(measured)}")

    def round(self) -> Decision:
        """One round: choose, draw, run, admit, learn, measure, decide, keep or go back.

        Raises:
            NothingPasses, CanaryPassed: see there; weights and store are then those before the round.
            OSError: the disk is full; the same holds.
        """
        assert self.head is not None, "begin comes first"
        began, number = time.monotonic(), self.head.round + 1
        before = {name: tensor.detach().clone() for name, tensor in self.student.model.state_dict().items()}
        try:
            return self._round(self.head, number, before, began)
        except BaseException:
            self.student.model.load_state_dict(before)
            self._go_back_to(self.head)
            raise

    def result(self) -> dict[str, Any]:
        """The figures to report: on held-out tasks that the gate has never seen, before the first round and now."""
        assert self.head is not None, "begin comes first"
        return {
            "control": self.config.control,
            "objective": self.config.objective.name,
            "seed": self.config.seed,
            "rounds": self.head.round,
            "kept": self.head.weights,
            "before": self.head.test_before,
            "after": self._measure(self.suites.test, self.head.round).as_json(),
            "sampled_tokens": self.head.sampled_tokens,
            "trained_tokens": self.head.trained_tokens,
            "seconds": self.head.seconds,
        }

    def _round(self, head: Head, number: int, before: dict[str, torch.Tensor], began: float) -> Decision:
        chosen, groups = self._draw(number)
        update, rows = self._learn(number, groups, head)
        self.checkpoints.save(number, {"model": self.student.model.state_dict()})
        measured, decision = self._decide(number, head)
        keeps = decision.promote if self.config.control == "none" else True
        for index, group in zip(chosen, groups, strict=True):
            self.curriculum.record(index, sum(a.passed for a in group), sum(a.judged for a in group))
        ...
