"""Votes against a count by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eco.evaluation.voting import Votes, task_shares

GRIDS = [np.zeros((1, 2)), np.zeros((2, 1)), np.ones((1, 2)), np.zeros((0, 0))]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4).map(lambda n: n / 4)), min_size=1))
def test_the_rank_counts_the_answers_that_go_before(cast):
    votes = Votes()
    for choice, confidence in cast:
        votes.cast("question", GRIDS[choice], confidence)
    given_ = [choice for choice, _ in cast if choice != 3]

    def standing(choice):
        own = [confidence for other, confidence in cast if other == choice]
        return len(own), sum(own) / len(own), -given_.index(choice)

    for choice in range(4):
        expected = None
        if choice in given_:
            expected = sum(standing(other) > standing(choice) for other in set(given_))
        assert votes.rank("question", GRIDS[choice]) == expected


def test_a_task_counts_by_the_share_of_its_questions():
    ranks = {(0, 0): 0, (0, 1): 1, (1, 0): None, (2, 0): 2}
    assert task_shares(ranks, 1) == [0.5, 0, 0]
    assert task_shares(ranks, 2) == [1, 0, 0]
    assert task_shares(ranks, 3) == [1, 0, 1]
