"""Attempts in the order of the tasks, the same whoever runs them; and refinements of the best draft."""

import pytest
from cribs import Crib, doubling, given, untrained

from eco.evaluation.tasks import Question
from eco.improvement.rollout import ask, attempt, refine
from eco.inference.sampling import Sampling
from eco.sandbox import Sandbox
from eco.tasks.sets import arithmetic, synthesis

RIGHT, WRONG = "    return 2 * value\n", "    return value\n"
SAMPLING = Sampling(max_new_tokens=6, temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=2) as opened:
        yield opened


def content(groups):
    return [[(a.task.name, a.prompt, a.completion, a.verdict, a.retry) for a in group] for group in groups]


def test_solutions_pass_and_each_attempt_is_judged_by_its_own_task(sandbox):
    tasks = [*synthesis.tasks("train", 3), *arithmetic.tasks("train", 2)]
    solutions = {task.prompt: task.solution() for task in tasks}
    crib = Crib(lambda prompt, number, seed: solutions[prompt] if number == 1 else "  pass")
    groups = attempt(crib, tasks, sandbox, SAMPLING, 3)
    assert [[a.task for a in group] for group in groups] == [[task] * 3 for task in tasks]
    assert [[a.passed for a in group] for group in groups] == [[False, True, False]] * 5
    assert all(a.prompt == a.task.prompt and a.retry == 0 and a.judged for group in groups for a in group)
    assert [(len(prompts), s.stop, s.seed) for prompts, s, _ in crib.asked] == [
        (3, tasks[0].stop, 3),
        (2, tasks[3].stop, 3),
    ]


def test_attempts_do_not_depend_on_the_number_of_workers_nor_on_the_other_tasks():
    engine, tasks = untrained(), arithmetic.tasks("train", 4)
    drawn = []
    for workers in (1, 3):
        with Sandbox(workers=workers) as sandbox:
            drawn.append(attempt(engine, tasks, sandbox, SAMPLING, 3))
    assert content(drawn[0]) == content(drawn[1])
    with Sandbox(workers=1) as sandbox:
        alone = attempt(engine, tasks[2:3], sandbox, SAMPLING, 3)
        other = attempt(engine, tasks, sandbox, SAMPLING.model_copy(update={"seed": 4}), 3)
    assert [a.completion.tokens for a in alone[0]] == [a.completion.tokens for a in drawn[0][2]]
    assert [a.completion.tokens for a in other[2]] != [a.completion.tokens for a in drawn[0][2]]
    assert len({tuple(a.completion.tokens) for a in alone[0]}) == 3


def test_a_prompt_without_room_gets_no_attempt(sandbox):
    tasks = [doubling("a"), doubling("b" * 100), doubling("c")]
    groups = attempt(Crib(lambda *_: RIGHT, context=90), tasks, sandbox, SAMPLING, 2)
    assert [[a.passed for a in group] for group in groups] == [[True, True], [], [True, True]]
    assert attempt(Crib(lambda *_: RIGHT, context=5), tasks, sandbox, SAMPLING, 2) == [[], [], []]


def test_tasks_with_the_same_prompt_get_samples_of_their_own_however_many_there_are(sandbox):
    crib = Crib(lambda prompt, number, seed: f"    return {number}\n")
    twins = [doubling("a", expected=(n, n, n)) for n in range(4)]
    between = [doubling(f"other {n}") for n in range(260)]
    groups = attempt(crib, [*twins[:2], *between, *twins[2:]], sandbox, SAMPLING, 2)
    drawn = [[a.completion.text for a in group] for group in (*groups[:2], *groups[-2:])]
    assert drawn == [[f"    return {2 * n}\n", f"    return {2 * n + 1}\n"] for n in range(4)]
    assert len(crib.asked) == 2


def test_a_refinement_is_shown_the_best_draft_and_judged_as_the_task(sandbox):
    task = doubling("a")
    best = given(task, "    return value + value\n", "pass", 1.0)
    group = [given(task, WRONG, score=0.9), given(task, "    return value + value + 0\n", "pass", 1.0), best,
             given(task, RIGHT, "infrastructure", 1.0), given(task, "    return value * 2.0\n")]  # fmt: skip
    crib = Crib(lambda *_: RIGHT)
    (refined,) = refine(crib, [group], sandbox, SAMPLING, 2)
    assert [a.passed for a in refined] == [True, True]
    prompt = "# An earlier answer:\n#     return value + value\n" + task.prompt
    assert {a.prompt for a in refined} == {prompt} and crib.asked[0][0] == [prompt]
    partial = [given(task, "    return 1\n", score=0.2), given(task, "    return value * 1\n", score=0.5)]
    (refined,) = refine(crib, [partial], sandbox, SAMPLING, 1)
    assert "value * 1" in refined[0].prompt and "return 1\n" not in refined[0].prompt


def test_groups_without_a_draft_to_show_get_no_refinements_and_the_others_keep_their_place(sandbox):
    a, b = doubling("a"), doubling("b")
    long = given(doubling("c"), "    return value" + " + 0" * 200 + "\n")
    groups = [[], [given(a, WRONG)], [given(b, WRONG, "infrastructure")], [long], [given(b, WRONG)]]
    refined = refine(Crib(lambda *_: RIGHT, context=600), groups, sandbox, SAMPLING, 2)
    assert [[a.task.name for a in group] for group in refined] == [[], ["a", "a"], [], [], ["b", "b"]]


def test_prompts_of_their_own_are_kept(sandbox):
    ((done,),) = ask(Crib(lambda *_: RIGHT), [Question(doubling(), "# So:\n")], sandbox, SAMPLING, 1, 2)
    assert (done.prompt, done.retry, done.passed) == ("# So:\n", 2, True)
