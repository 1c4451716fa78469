"""The measure of puzzles with models that are right exactly where the test says so."""

import json

import numpy as np
import pytest
import torch

from eco.data.puzzles.store import Group, open_set, write_set
from eco.data.puzzles.stream import PuzzleExamples
from eco.evaluation.puzzles import measure, quick_measure
from eco.models import trm
from eco.models.contract import Latent, PuzzleModelConfig, RecursiveModel, build_model
from eco.tasks.puzzles.arc import Config, build
from eco.tasks.verdict import Verdict
from eco.training.precision import Precision

STEPS = 3
PRECISION = Precision("fp32", torch.device("cpu"))


class Crib(RecursiveModel):
    """Knows the answer to each example of a set; `solves(row, tokens, step)` says when it gives it.

    A wrong answer has its first asked cell wrong. `sure(right)` is the halting head's logit.
    """

    def __init__(self, puzzles, solves, sure=lambda right: 9.0 if right else -9.0):
        super().__init__()
        length = puzzles.length
        self.config = PuzzleModelConfig(family="crib", vocab_size=puzzles.vocab_size, length=length)
        self.max_steps = STEPS
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self._labels = {i.tobytes(): o for i, o in zip(puzzles.inputs, puzzles.labels, strict=True)}
        self._solves, self._sure = solves, sure

    def encode(self, tokens, puzzle):
        assert not self.training
        return torch.cat([puzzle[:, None], tokens], 1)

    def start(self, question):
        return Latent(question, torch.zeros_like(question))

    def improve(self, question, latent):
        return Latent(question, latent.scratch + 1)

    def read(self, latent):
        step = int(latent.scratch[0, 0])
        answers, halting = [], []
        for row, *tokens in latent.answer.tolist():
            key = np.array(tokens, np.uint8)
            answer = torch.from_numpy(self._labels[key.tobytes()].astype(np.int64))
            right = self._solves(row, key, step)
            if not right:
                first = int(answer.nonzero()[0])
                answer[first] = (answer[first] - 1) % (self.config.vocab_size - 2) + 2
            answers.append(answer)
            halting.append(self._sure(right))
        logits = 5.0 * torch.nn.functional.one_hot(torch.stack(answers), self.config.vocab_size)
        return logits, torch.tensor(halting)

    def training_step(self, batch, carry=None):
        raise NotImplementedError

    def init_weights(self, generator): ...

    def flops_per_token(self):
        return 0.0


def always(row, tokens, step):
    return True


@pytest.fixture
def arc(tmp_path):
    """The ARC family, its test set of 3 tasks (1, 2 and 3 questions) in 5 copies each, and that set's examples."""
    generator = np.random.default_rng(0)

    def pair():
        return {
            side: generator.integers(0, 10, generator.integers(2, 5, size=2)).tolist() for side in ("input", "output")
        }

    tasks = {f"t{n}": {"train": [pair(), pair()], "test": [pair() for _ in range(n)]} for n in (1, 2, 3)}
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    task = build(Config(paths=(str(tmp_path / "tasks.json"),), size=6, held_out_puzzles=3, augmentations=4))
    write_set(tmp_path / "train", task.groups("train"), vocab_size=12, length=36)
    rows = open_set(tmp_path / "train").identifiers
    write_set(tmp_path / "test", task.groups("test"), vocab_size=12, length=36, identifiers=rows)
    puzzles = open_set(tmp_path / "test")
    assert puzzles.identifiers == rows and len(rows) == 16
    return task, puzzles


@pytest.fixture
def plain(tmp_path):
    """Eight puzzles of four cells without names; the last cell is not asked for."""
    inputs = np.random.default_rng(0).integers(2, 9, (8, 1, 1, 4), dtype=np.uint8)
    labels = np.where(np.arange(4) < 3, (inputs + 1) % 7 + 2, 0).astype(np.uint8)
    write_set(tmp_path / "plain", map(Group, inputs, labels), vocab_size=9, length=4)
    return open_set(tmp_path / "plain")


class AnyGrid:
    """Accepts an answer whose second cell is not 5."""

    attempts = 1
    has_rules = True

    def check(self, inputs, answer, label=None):
        return Verdict("fail", 0.0) if answer[1] == 5 else Verdict("pass", 1.0)


def full(model, task, puzzles, batch=4):
    return measure(model, PuzzleExamples(puzzles), task, puzzles.identifiers, batch, PRECISION)


def test_an_oracle_scores_one(arc):
    task, puzzles = arc
    report = full(Crib(puzzles, always), task, puzzles)
    ones = ("exact_accuracy", "cell_accuracy", "halt_accuracy", "blank_exact_accuracy")
    assert "valid_share" not in report, "the rule of an ARC task is not known to the judge"
    assert all(report[name] == 1 for name in (*ones, "single_score", "voted_score"))
    assert report["accuracy_by_step"] == [1.0] * STEPS
    assert set(report["voted_pass_at"].values()) == {1.0}
    assert (report["puzzles"], report["tasks"], report["votes"]) == (6, 3, 5)
    assert report["exact_accuracy_low"] == pytest.approx(0.6097, abs=1e-4) and report["exact_accuracy_high"] == 1


def test_one_that_knows_nothing_scores_zero_of_as_many(arc):
    task, puzzles = arc
    report = full(Crib(puzzles, lambda row, tokens, step: False), task, puzzles)
    zeros = ("exact_accuracy", "blank_exact_accuracy", "single_score", "voted_score")
    assert all(report[name] == 0 for name in zeros)
    assert report["halt_accuracy"] == 1 and report["confidence"] < 1e-3
    assert (report["puzzles"], report["tasks"]) == (6, 3)


def test_figures_of_single_puzzles(plain):
    """Puzzle i is solved from step i + 1 on, so three of eight are after three steps."""
    number = {i.tobytes(): n for n, i in enumerate(plain.inputs)}
    model = Crib(
        plain, lambda row, tokens, step: number[tokens.tobytes()] < step, sure=lambda right: 2.0 if right else 1.0
    )
    report = full(model, AnyGrid(), plain)
    assert report["accuracy_by_step"] == [1 / 8, 2 / 8, 3 / 8]
    assert report["exact_accuracy"] == 3 / 8
    assert report["cell_accuracy"] == pytest.approx((3 + 5 * 2 / 3) / 8)
    assert report["halt_accuracy"] == 3 / 8  # it always says that it is right
    assert report["confidence"] == pytest.approx((3 / (1 + np.exp(-2)) + 5 / (1 + np.exp(-1))) / 8)
    assert report["valid_share"] == np.mean(plain.labels[:, 1] != 5)
    # Stablemax by its definition: 6 for the logit 5, 1 for each of the eight zeros.
    right, wrong = -np.log(6 / 14), -np.log(1 / 14)
    assert report["loss"] == pytest.approx((3 * right + 5 * (2 * right + wrong) / 3) / 8)
    assert not any(name.startswith(("blank", "voted", "single")) for name in report)


def test_the_blank_row_shows_what_the_table_knows(arc):
    task, puzzles = arc
    report = full(Crib(puzzles, lambda row, tokens, step: row != 0), task, puzzles)
    assert report["exact_accuracy"] == 1 and report["blank_exact_accuracy"] == 0


def test_copies_outvote_the_puzzle_itself(arc):
    task, puzzles = arc
    base = {row for row, name in enumerate(puzzles.identifiers) if "|||" not in name}
    copies_only = full(Crib(puzzles, lambda row, tokens, step: row not in base), task, puzzles)
    assert copies_only["exact_accuracy"] == 0 and copies_only["single_score"] == 0
    assert copies_only["voted_pass_at"]["1"] == 1 and copies_only["voted_score"] == 1
    base_only = full(Crib(puzzles, lambda row, tokens, step: row in base), task, puzzles)
    assert base_only["exact_accuracy"] == 1 and base_only["single_score"] == 1
    assert base_only["voted_score"] == base_only["voted_pass_at"]["2"] > base_only["voted_pass_at"]["1"]
    assert base_only["voted_pass_at"]["10"] == 1 > base_only["voted_pass_at"]["1"]  # wrong copies may agree


def test_a_task_scores_by_the_share_of_its_questions(arc):
    task, puzzles = arc
    examples = PuzzleExamples(puzzles)
    first = {i.tobytes() for i, n in zip(puzzles.inputs, examples.example, strict=True) if n == 0}
    report = full(Crib(puzzles, lambda row, tokens, step: tokens.tobytes() in first), task, puzzles)
    assert report["exact_accuracy"] == 3 / 6
    assert report["voted_score"] == report["single_score"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_measuring_again_or_in_other_batches_changes_nothing(arc):
    task, puzzles = arc
    model = Crib(puzzles, lambda row, tokens, step: int(tokens.sum()) % 3 < step - 1)
    first = full(model, task, puzzles)
    assert 0 < first["voted_score"] < 1 or 0 < first["exact_accuracy"] < 1
    assert full(model, task, puzzles) == first
    other = full(model, task, puzzles, batch=7)
    assert other == {name: pytest.approx(value) for name, value in first.items()}


def test_without_examples_there_is_no_figure(plain):
    class Nothing:
        group = variant = example = np.zeros(0, np.int64)

    model = Crib(plain, always)
    with pytest.raises(ValueError, match="no puzzle to measure"):
        measure(model, Nothing(), AnyGrid(), ("<blank>",), 4, PRECISION)
    with pytest.raises(ValueError, match="no puzzle to measure"):
        quick_measure(model, Nothing(), 4, PRECISION)
    assert model.training


@pytest.mark.parametrize("precision", [PRECISION, Precision("bf16", torch.device("cpu"))])
def test_after_one_step_the_figures_are_those_of_a_training_step(plain, precision):
    config = trm.Config(
        width=32,
        layers=1,
        heads=2,
        prefix=1,
        cycles=2,
        inner_cycles=2,
        max_steps=1,
        vocab_size=9,
        length=4,
        identifiers=1,
    )
    model = build_model(trm.build, config, 0, torch.device("cpu"))
    batch = PuzzleExamples(plain).select(np.arange(8))
    with torch.no_grad(), precision.autocast():
        output = model.training_step(batch)
    row = quick_measure(model, PuzzleExamples(plain), 8, precision)
    assert row["val_loss"] == pytest.approx(float(output.losses["answer"]), rel=1e-5)
    assert row["val_cell_accuracy"] == pytest.approx(float(output.metrics["cell_accuracy"].nanmean()))
    assert row["val_exact_accuracy"] == pytest.approx(float(output.metrics["exact_accuracy"].nanmean()))
    assert full(model, AnyGrid(), plain)["halt_accuracy"] == pytest.approx(
        float(output.metrics["halt_accuracy"].nanmean())
    )


def test_the_quick_measure_takes_evenly_spaced_puzzles(arc, plain):
    number = {i.tobytes(): n for n, i in enumerate(plain.inputs)}
    seen = []

    def solves(row, tokens, step):
        seen.append(number[tokens.tobytes()])
        return number[tokens.tobytes()] >= 4

    model = Crib(plain, solves)
    assert model.training
    row = quick_measure(model, PuzzleExamples(plain), 2, PRECISION, puzzles=3)
    assert model.training
    assert set(seen) == {0, 4, 7}
    assert row["val_exact_accuracy"] == pytest.approx(2 / 3) and row["val_error"] == pytest.approx(1 / 3)
    assert row["val_cell_accuracy"] == pytest.approx((1 + 1 + 2 / 3) / 3) and row["val_puzzles"] == 3
    everything = quick_measure(model, PuzzleExamples(plain), 3, PRECISION)
    report = full(model, AnyGrid(), plain)
    assert everything["val_puzzles"] == 8 and everything["val_loss"] == pytest.approx(report["loss"])
    _, puzzles = arc
    assert quick_measure(Crib(puzzles, always), PuzzleExamples(puzzles), 4, PRECISION)["val_puzzles"] == 6  # no copies
