"""Search over noisy paths: off is absent; more paths are never less sure, and right more often."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from wanderer import VOCAB, Wanderer
from wanderer import plain as plain_steps

from eco.inference.search import Search, search, solve
from eco.models.contract import Latent
from eco.tasks.puzzles.contract import Cell, PuzzleTask, Question
from eco.tasks.verdict import Verdict

STEPS = 6
ROWS = 80
TOKENS = torch.randint(VOCAB, (ROWS, 4), generator=torch.Generator().manual_seed(1))
PUZZLE = torch.arange(ROWS) % 3


def paths(count, **settings):
    return Search(latent_num_paths=count, **settings)


def correct(step):
    return int((step.answers[:, 0] == 1).sum())


def same(one, other):
    return torch.equal(one.answers, other.answers) and torch.equal(one.confidence, other.confidence)


def test_one_path_is_the_plain_solution_and_costs_no_more():
    model = Wanderer()
    found = search(model, TOKENS, PUZZLE, STEPS, Search())
    assert model.improved == STEPS
    plain = list(plain_steps(model, TOKENS, PUZZLE, STEPS))
    assert all(same(a, b) for a, b in zip(found.steps, plain, strict=True))
    assert same(found.by_paths[1], plain[-1]) and found.by_paths.keys() == {1}
    assert not found.path.any() and torch.equal(found.scores, plain[-1].confidence[:, None])


def test_accuracy_rises_with_the_paths_where_the_head_knows_the_truth():
    found = search(Wanderer(), TOKENS, PUZZLE, STEPS, paths(16))
    curve = {count: correct(step) for count, step in found.by_paths.items()}
    assert list(curve) == [1, 2, 4, 8, 16]
    assert curve[1] < curve[2] < curve[4] < curve[8] < curve[16]
    # Each path guesses one of five: 1 - 0.8 ** 16 of the rows are right in the end, 97 %.
    assert curve[1] < 0.4 * ROWS and curve[16] > 0.85 * ROWS


def test_the_curve_of_a_large_search_holds_the_small_ones():
    large = search(Wanderer(), TOKENS, PUZZLE, STEPS, paths(6))
    assert list(large.by_paths) == [1, 2, 4, 6]
    before = torch.zeros(ROWS)
    for count, step in large.by_paths.items():
        small = search(Wanderer(), TOKENS, PUZZLE, STEPS, paths(count))
        assert same(small.steps[-1], step) and torch.equal(small.scores, large.scores[:, :count])
        assert (step.confidence >= before).all()
        before = step.confidence


def test_the_chosen_path_is_the_first_of_the_surest():
    found = search(Wanderer(), TOKENS, PUZZLE, STEPS, paths(5))
    scores = found.scores.numpy()
    assert np.array_equal(found.path.numpy(), scores.argmax(1))
    assert np.array_equal(found.steps[-1].confidence.numpy(), scores.max(1))
    silent = search(Wanderer(), TOKENS, PUZZLE, STEPS, paths(3, latent_noise=0))
    assert not silent.path.any() and (silent.scores == silent.scores[:, :1]).all()


def test_each_step_of_the_answer_is_of_the_chosen_path():
    found = search(Wanderer(), TOKENS, PUZZLE, STEPS, paths(4))
    alone = [search(Wanderer(), TOKENS, PUZZLE, STEPS, paths(count)) for count in (1, 2, 3, 4)]
    for row, path in enumerate(found.path.tolist()):
        for own, step in zip(alone[path].steps, found.steps, strict=True):
            assert torch.equal(own.answers[row], step.answers[row]) and own.confidence[row] == step.confidence[row]


def test_noisy_paths_leave_the_first_one_so_many_steps_before_the_end():
    model = Wanderer()
    found = search(model, TOKENS, PUZZLE, STEPS, paths(5, latent_planning_depth=2))
    assert model.improved == STEPS + 4 * 2
    plain = list(plain_steps(model, TOKENS, PUZZLE, STEPS))
    assert all(same(a, b) for a, b in zip(found.steps[:4], plain[:4], strict=True))
    assert not same(found.steps[4], plain[4])


def test_a_row_does_not_depend_on_its_batch():
    together = search(Wanderer(), TOKENS, PUZZLE, STEPS, paths(4))
    order = torch.tensor([7, 3, 40])
    apart = search(Wanderer(), TOKENS[order], PUZZLE[order], STEPS, paths(4))
    assert torch.equal(together.scores[order], apart.scores) and torch.equal(together.path[order], apart.path)


def test_the_seed_is_all_that_the_noise_depends_on():
    torch.manual_seed(5)
    one, same_seed, other = (search(Wanderer(), TOKENS, PUZZLE, STEPS, paths(3, seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(one.scores, same_seed.scores)
    assert torch.equal(one.scores[:, 0], other.scores[:, 0]) and not torch.equal(one.scores, other.scores)


class Recorder(Wanderer):
    """Notes the states that its steps start from; they stay as large as the rows of the table say."""

    def __init__(self, dtype=torch.float32):
        super().__init__(width=512)
        self.dtype = dtype
        self.seen = []

    def start(self, question):
        size = torch.arange(1.0, len(question) + 1)[:, None, None]
        start = (size * torch.ones_like(question)).to(self.dtype)
        return Latent(start, 10 * start)

    def improve(self, question, latent):
        self.seen.append(latent)
        return self.start(question)

    def read(self, latent):
        return latent.answer[..., :VOCAB], latent.answer[:, 0, 0].float()


def test_noise_is_fresh_at_each_step_and_measured_by_the_state():
    model = Recorder()
    start = model.start(model.encode(TOKENS[:3], PUZZLE[:3]))
    search(model, TOKENS[:3], PUZZLE[:3], 2, paths(3, latent_noise=0.5))
    assert all(torch.equal(a, b) for seen in model.seen[:2] for a, b in zip(seen, start, strict=True))
    noise = [(a - b) / b for seen in model.seen[2:] for a, b in zip(seen, start, strict=True)]
    assert len(noise) == 2 * 2 * 2  # paths, steps, parts
    for i, one in enumerate(noise):
        assert abs(one.std() - 0.5) < 0.05 and abs(one.mean()) < 0.05
        torch.testing.assert_close(one[0], one[2], rtol=0, atol=1e-5)
        assert all(abs(torch.corrcoef(torch.stack([one[0].ravel(), b[0].ravel()]))[0, 1]) < 0.1 for b in noise[:i])


def test_the_state_keeps_its_dtype():
    model = Recorder(torch.bfloat16)
    search(model, TOKENS[:3], PUZZLE[:3], 2, paths(2))
    assert {part.dtype for latent in model.seen for part in latent} == {torch.bfloat16}


class FirstCell(PuzzleTask):
    """Right is a 1 in the first cell, the only one that is shown."""

    shape, vocab_size = (2, 2), VOCAB

    def groups(self, split):
        return iter(())

    def parse(self, text):
        raise NotImplementedError

    def check(self, inputs, answer, label=None):
        return Verdict("pass", 1.0) if answer[0] == 1 else Verdict("fail", 0.0, "not 1")

    def cells(self, inputs, answer=None):
        return [[Cell(str((inputs if answer is None else answer)[0]))]]


def ask(names=("",) * ROWS, steps=None, settings=None):
    questions = [Question(row.numpy().astype(np.uint8), name) for row, name in zip(TOKENS, names, strict=False)]
    return solve(Wanderer(), FirstCell(), questions, {"a": 1, "b": 2}, nullcontext, settings or paths(4), steps)


def test_an_answer_tells_what_happened_to_its_question():
    found = search(Wanderer(), TOKENS, torch.zeros(ROWS, dtype=torch.int64), 6, paths(4))
    answers = ask()
    assert len(answers) == ROWS  # of which 64 are solved at a time
    for row, answer in enumerate(answers):
        grids = np.stack([step.answers[row] for step in found.steps])
        assert np.array_equal(answer.steps, grids) and np.array_equal(answer.grid, grids[-1])
        assert np.array_equal(answer.confidence, [step.confidence[row] for step in found.steps])
        assert answer.path == found.path[row] and np.array_equal(answer.scores, found.scores[row])
        assert answer.verdict.score == (answer.grid[0] == 1)
        shown = grids[:, 0].tolist()
        assert answer.settled == min(n for n in range(1, 7) if set(shown[n - 1 :]) == {shown[-1]})
    assert {answer.settled for answer in answers} >= {5, 6}


def test_a_name_takes_its_row_and_a_strange_one_the_blank_row():
    blank, first, strange = ask(["", "a", "c"])
    named = search(Wanderer(), TOKENS[1:2], torch.tensor([1]), 6, paths(4))
    assert np.array_equal(first.scores, named.scores[0])
    nameless = search(Wanderer(), TOKENS[2:3], torch.tensor([0]), 6, paths(4))
    assert np.array_equal(strange.scores, nameless.scores[0])
    assert (blank.known, first.known, strange.known) == (False, True, False)
    (nameless,) = solve(Wanderer(), FirstCell(), [blank.question], {"<blank>": 0}, nullcontext, paths(1))
    assert nameless.known, "no puzzle of this model has a name"


def test_the_number_of_steps_can_be_chosen():
    assert len(ask([""], steps=2)[0].steps) == 2
    with pytest.raises(ValueError, match="steps is 0; a puzzle takes at least 1"):
        ask([""], steps=0)
