"""The loop: one round from the choice of tasks to the decision, and what stands before the first and after the last.

A round depends on the head it starts from, the settings and the round's number, and on nothing else: a round that was
killed is done again and comes out the same. What it writes is seen only once the head, one small file, is replaced.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import torch

from eco.improvement.attempt import Attempt, reference, write_attempts
from eco.improvement.config import ImproveConfig
from eco.improvement.controls import as_control
from eco.improvement.curriculum import Curriculum
from eco.improvement.decisions import Decisions
from eco.improvement.draw import Drawn, draw, most_tokens, why_nothing_passed
from eco.improvement.gate import Decision, Evidence, decide, reload_difference, weights_are_finite
from eco.improvement.head import HEAD, START, Head
from eco.improvement.learn.expert import Update
from eco.improvement.learn.student import Student, hash_of, weights_digest
from eco.improvement.measure import Measurement, measure
from eco.improvement.rollout import attempt
from eco.improvement.store.admission import Origin, admit
from eco.improvement.store.contamination import Contamination
from eco.improvement.store.manifest import Facts
from eco.improvement.store.row import digest
from eco.improvement.store.versions import VerifiedStore
from eco.improvement.suites import Suites
from eco.improvement.update import Updates, draw_and_update_with_trl
from eco.inference.engine import Engine
from eco.models.contract import LanguageModel
from eco.sandbox import Sandbox
from eco.tasks.contract import Task
from eco.training.callbacks import Row
from eco.training.checkpoint import Checkpoints

_GATE, _BEFORE, _AFTER = -1, -2, -3
"""Numbers that seed the sampling of measurements, apart from those of the rounds. The gate's is the same each time,
so that a difference is the weights'; the final figures draw anew, so that an unchanged control shows what is chance."""

_HOLE = "a task without a solution was passed: the check has a hole, and nothing that passed it can be trusted"

Weights = dict[str, torch.Tensor]


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
        self.say = say
        self._updated: Row = {}
        self.store = VerifiedStore(folder / "store")
        self.decisions = Decisions(folder / "decisions.jsonl")
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=2**31)  # what is no longer needed goes by _prune
        self.head = Head.read(folder / "head.json")

    @cached_property
    def _contamination(self) -> Contamination:
        """Made where something is to be admitted: it takes a run of the sandbox for every few tasks."""
        training = [*self.suites.warmup, *self.suites.pool]
        return Contamination(self.suites.held_out, training, self._sandbox, self.config.store.ngram)

    @property
    def is_done(self) -> bool:
        """Whether the rounds, the minutes or the patience that were asked for are used up."""
        assert self.head is not None, "begin comes first"
        config, head = self.config, self.head
        out_of_time = config.minutes is not None and head.round > 0 and head.seconds >= 60 * config.minutes
        in_vain = config.control == "none" and 0 < config.patience <= head.rejected  # a control has its whole compute
        return head.round >= config.rounds or out_of_time or in_vain

    def state_dict(self) -> dict[str, Any]:
        return self.head.as_json() if self.head else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the loop back, or on, to a head of this folder; the weights are the caller's."""
        (self.folder / HEAD).unlink(missing_ok=True)
        self.head = Head(**state) if state else None
        if self.head:
            self.head.write(self.folder / HEAD)
            self._take_up(self.head)

    def begin(self) -> None:
        """Goes on where the folder stands; or learns the warm-up tasks and takes the first measurements.

        Raises:
            ValueError: a checkpoint or the store is damaged.
            CanaryPassed: see there.
        """
        if self.head:
            self._take_up(self.head)
            self._load_weights(self.head.weights)
            return
        (self.folder / "attempts").mkdir(parents=True, exist_ok=True)
        self._forget_after(-1)
        began = time.monotonic()
        head = Head(curriculum=self.curriculum.state_dict(), learner=self.updates.state_dict())
        if self.suites.warmup:
            head = self._warmed_up(head)
        self.checkpoints.save(0, {"model": self.student.model.state_dict()})
        measured = self._measure(self.suites.gate, _GATE)
        head = replace(
            head,
            start=measured.as_json(),
            current=measured.as_json(),
            best={name: suite.pass_at_1 for name, suite in measured.suites.items()},
            test_before=self._measure(self.suites.test, _BEFORE).as_json(),
            seconds=time.monotonic() - began,
        )
        if self._canaries_passed(0):
            raise CanaryPassed(_HOLE)
        head.write(self.folder / START)
        head.write(self.folder / HEAD)
        self.head = head
        self.say(f"before the first round: {measured}")

    def round(self) -> Decision:
        """One round: choose, draw, run, admit, learn, measure, decide, keep or go back.

        Raises:
            NothingPasses, CanaryPassed: see there; the head and the weights are then those before the round, and what
                it has written is forgotten when the next one begins.
            OSError: the disk is full; the same holds.
        """
        assert self.head is not None, "begin comes first"
        self._forget_after(self.head.round)
        before = {name: tensor.detach().clone() for name, tensor in self.student.model.state_dict().items()}
        try:
            self.head, decision = self._round(self.head, before)
        except BaseException:
            self.student.model.load_state_dict(before)
            self.curriculum.load_state_dict(self.head.curriculum)
            self.updates.load_state_dict(self.head.learner)
            raise
        return decision

    def look_again(self) -> None:
        """Measures the weights as they are: training has changed them since the last round, and it is them that the
        next one has to surpass, and must not harm."""
        assert self.head is not None, "begin comes first"
        measured = self._measure(self.suites.gate, _GATE)
        now = measured.as_json()
        self.head = replace(self.head, start=now, current=now, best=_best(self.head.best, measured))

    def result(self) -> dict[str, Any]:
        """The figures to report: on held-out tasks that no decision has seen, before the first round and now."""
        assert self.head is not None, "begin comes first"
        return {
            "control": self.config.control,
            "objective": self.config.objective.name,
            "seed": self.config.seed,
            "rounds": self.head.round,
            "weights": self.head.weights,
            "before": self.head.test_before,
            "after": self._measure(self.suites.test, _AFTER).as_json(),
            "sampled_tokens": self.head.sampled_tokens,
            "trained_tokens": self.head.trained_tokens,
            "seconds": self.head.seconds,
        }

    @property
    def pass_at_1(self) -> float:
        """Of the weights that count, on the gate's tasks."""
        assert self.head is not None, "begin comes first"
        return Measurement.from_json(self.head.current).suites[self.suites.learnt].pass_at_1

    def row(self) -> Row:
        """Where it stands, for metrics.jsonl."""
        assert self.head is not None, "begin comes first"
        row: Row = {"improve_round": self.head.round, "improve_weights": self.head.weights, **self._updated}
        for name, suite in Measurement.from_json(self.head.current).suites.items():
            row[f"improve_pass_at_1/{name}"] = suite.pass_at_1
        return row

    def _round(self, head: Head, before: Weights) -> tuple[Head, Decision]:
        began, number = time.monotonic(), head.round + 1
        version, drawn, update = self._learn(head, number)
        self._updated = update.row
        self.checkpoints.save(number, {"model": self.student.model.state_dict()})
        measured = self._measure(self.suites.gate, _GATE)
        decision = self._decide(head, measured, number)
        self._record(head, number, version, decision, measured, update)
        if decision.stop:
            raise CanaryPassed(f"{_HOLE}; the evidence is in {self.decisions.path}")
        if not decision.promote:
            self.student.model.load_state_dict(before)
        elif version:
            self.store.promote(version)
        self.updates.observe(measured.over(Measurement.from_json(head.current)))
        head = replace(
            head,
            round=number,
            weights=number if decision.promote else head.weights,
            corpus=head.corpus + update.corpus_windows,
            rejected=0 if decision.promote else head.rejected + 1,
            sampled_tokens=head.sampled_tokens + drawn.tokens,
            trained_tokens=head.trained_tokens + update.tokens,
            seconds=head.seconds + time.monotonic() - began,
            current=measured.as_json() if decision.promote else head.current,
            best=_best(head.best, measured) if decision.promote else head.best,
            curriculum=self.curriculum.state_dict(),
            learner=self.updates.state_dict(),
        )
        head.write(self.folder / HEAD)
        self._prune(head)
        self.say(f"round {number}: {'kept' if decision.promote else 'taken back'}, {decision.reason}; {measured}")
        return head, decision

    def _learn(self, head: Head, number: int) -> tuple[str | None, Drawn, Update]:
        """Attempts, what of them is admitted, and the update: the store's new version, if there is one."""
        chosen = self.curriculum.pick(number, self.config.tasks_per_round)
        tasks = [self.suites.pool[at] for at in chosen]
        update: Update | None = None
        if self.config.control == "more-pretraining":
            drawn = Drawn([], tokens=most_tokens(tasks, self.student.tokenizer, self.config))
        elif self.updates.by_trl:
            drawn, update = draw_and_update_with_trl(
                self.student, self.config, tasks, self._sandbox, number, self.folder
            )
        else:
            drawn = draw(self.engine, tasks, self._sandbox, self.config, number)
        for at, group in zip(chosen, drawn.groups, strict=False):
            self.curriculum.record(at, sum(a.passed for a in group), sum(a.judged for a in group))
        version = self._admit(drawn, number)
        rows = self.store.rows(version)
        return version, drawn, update or self.updates.from_round(rows, drawn, number, head.corpus)

    def _admit(self, drawn: Drawn, number: int) -> str | None:
        """Writes the attempts, and those that passed into a version of the store that does not count yet.

        Raises:
            NothingPasses: none has. A control goes on nevertheless.
        """
        if self.config.control == "more-pretraining":
            return None
        write_attempts(self.folder / "attempts" / f"round_{number:04}.jsonl", drawn.attempts)
        if not drawn.passed and self.config.control == "none":
            raise NothingPasses(why_nothing_passed(drawn, self.config))
        return self._append(drawn.attempts, number, "model")

    def _append(self, attempts: Sequence[Attempt], number: int, source: Literal["model", "reference"]) -> str | None:
        sampling = self.config.sampling(hash_of((self.config.seed, number))) if source == "model" else None
        model, stored = weights_digest(self.student.model), self.store.rows()
        by_tests = self.config.labels == "tests" and self.config.control != "random-reward"
        tier: Literal["A", "B"] = "A" if by_tests or source == "reference" else "B"
        origin = Origin(number, model, sampling.model_dump(mode="json") if sampling else {}, source, tier)
        admitted = admit(attempts, stored, origin, self._contamination, self._sandbox, self.config.store)
        if not admitted.rows:
            return None
        return self.store.append(
            admitted.rows,
            Facts(
                round=number,
                model=model,
                tokenizer=self.student.tokenizer.digest,
                config=digest(self.config.model_dump_json()),
                seeds={"improve": self.config.seed, "round": number},
                funnel=admitted.funnel,
                removed=tuple(admitted.removed),
            ),
        )

    def _decide(self, head: Head, measured: Measurement, number: int) -> Decision:
        model = self.student.model
        reloaded = self.student.rebuild()
        self._load_weights(number, reloaded)
        probe = self.student.corpus(0, 1)["tokens"].to(self.student.precision.device)
        facts = Evidence(
            finite=weights_are_finite(model),
            reload_difference=reload_difference(model, reloaded, probe),
            canaries_passed=self._canaries_passed(number) if math.isfinite(measured.bits_per_byte) else 0,
        )
        before, start = (Measurement.from_json(found) for found in (head.current, head.start))
        decision = decide(before, measured, start, head.best, facts, self.config.gate, self.config.seed)
        return decision if self.config.control == "none" else as_control(decision, before, measured)

    def _warmed_up(self, head: Head) -> Head:
        """Learns the reference solutions of the warm-up tasks; they become the first version of the store."""
        solved = [reference(task, self.student.tokenizer, self._sandbox) for task in self.suites.warmup]
        if version := self._append(solved, 0, "reference"):
            self.store.promote(version)
        update = self.updates.from_rows(self.store.rows(), self.config.warmup_steps, 0, 0)
        return replace(head, corpus=update.corpus_windows, trained_tokens=update.tokens)

    def _measure(self, suites: Mapping[str, Sequence[Task]], number: int) -> Measurement:
        sampling = self.config.sampling(hash_of((self.config.seed, number)))
        return measure(
            self.engine, suites, self._sandbox, sampling, self.config.gate.samples, self.student.held_out,
            self.student.precision,
        )  # fmt: skip

    def _canaries_passed(self, number: int) -> int:
        sampling = self.config.sampling(hash_of((self.config.seed, number)))
        groups = attempt(self.engine, self.suites.canaries, self._sandbox, sampling, self.config.samples)
        passed = [one for group in groups for one in group if one.passed]
        if passed:  # what has found a hole in the check is to be looked at
            write_attempts(self.folder / "attempts" / f"canaries_{number:04}.jsonl", passed)
        return len(passed)

    def _record(
        self, head: Head, number: int, version: str | None, decision: Decision, measured: Measurement, update: Update
    ) -> None:
        evidence = {
            "round": number,
            "control": self.config.control,
            "objective": self.config.objective.name,
            "seed": self.config.seed,
            "store": version,
            **decision.as_json(),
            "before": head.current,
            "after": measured.as_json(),
            "update": update.row,
        }
        self.decisions.append(evidence)
        if version:
            self.store.record_outcome(version, self.decisions.read()[-1])  # as strict as it was written

    def _load_weights(self, number: int, into: LanguageModel | None = None) -> None:
        path = self.checkpoints.directory / f"step_{number:08d}"
        (into or self.student.model).load_state_dict(self.checkpoints.load(path).parts["model"])

    def _take_up(self, head: Head) -> None:
        if (begun := list(head.current["suites"])) != (now := list(self.suites.gate)):
            raise ValueError(
                f"the loop in {self.folder} was begun on {', '.join(begun)}, not on {', '.join(now)}; leave "
                "improve.tasks and improve.domains as they were, or begin another run"
            )
        self._forget_after(head.round)
        self._prune(head)
        self.curriculum.load_state_dict(head.curriculum)
        self.updates.load_state_dict(head.learner)

    def _forget_after(self, round: int) -> None:
        """Removes what a round that was killed has left."""
        self.store.discard_after(round)
        self.decisions.truncate_after(round)
        for scratch in self.folder.glob(".trl-*"):
            rmtree(scratch)
        for entry in self.checkpoints.entries():
            if entry.step > round:
                self.checkpoints.remove(entry)

    def _prune(self, head: Head) -> None:
        """Keeps the weights that count, those of the start, and the latest candidate."""
        for entry in self.checkpoints.entries():
            if entry.step not in (0, head.weights, head.round):
                self.checkpoints.remove(entry)


def _best(best: Mapping[str, float], measured: Measurement) -> dict[str, float]:
    return {name: max(best[name], suite.pass_at_1) for name, suite in measured.suites.items()}
