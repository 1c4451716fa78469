"""Which tasks a round tries: those that the model solves now and then, since they are what it can learn from.

A task that is always or never solved gives a group without variance, and so no gradient and nothing new to keep. How
often a task is solved is known from few attempts of an older model, so its rate is a distribution and not a number: a
round takes the tasks whose rate may be expected nearest to the band.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from eco.config import Config, setting

_NEVER = -1

_DRAWS = 64
"""Rates drawn from each task's distribution, to tell how far it lies from the band."""


class CurriculumConfig(Config):
    """The band of success rates to prefer, and how what is known of a task is weighed and forgotten."""

    low: float = setting(0.2, "Tasks that are solved less often than this are put behind.", ge=0, le=1)
    high: float = setting(0.8, "Tasks that are solved more often than this are put behind.", ge=0, le=1)
    untried: float = setting(
        0.25, "Share of a round's tasks that no round has tried yet, as long as there are such.", ge=0, le=1
    )
    prior: float = setting(2.0, "How many attempts the mean of all tasks counts for in the rate of each.", gt=0)
    half_life: float = setting(4.0, "Rounds after which an attempt counts half: the model changes.", gt=0)

    @model_validator(mode="after")
    def _has_a_band(self) -> "CurriculumConfig":
        if self.low >= self.high:
            raise ValueError(f"the band from low {self.low} to high {self.high} is empty; low has to be below high")
        return self


class Curriculum:
    """The rates of `count` tasks, by their index, and the choice among them.

    The rate of a task is Beta distributed: its own attempts, faded by the rounds since, and `prior` attempts at the
    mean rate of all.
    """

    def __init__(self, count: int, config: CurriculumConfig, seed: int) -> None:
        self.config = config
        self._seed = seed
        self._round = 0
        self._passed: NDArray[np.float64] = np.zeros(count)
        self._judged: NDArray[np.float64] = np.zeros(count)
        # The round that recorded the task last; both counts are as they were then.
        self._tried: NDArray[np.int64] = np.full(count, _NEVER)

    def pick(self, round: int, count: int) -> list[int]:
        """`count` different tasks in rising order, or all where there are fewer: the same for the same rounds before.

        The share of the untried is drawn at random. The others are those whose rate is nearest to the band, in the mean
        over what it may be: with a model that solves next to nothing, those that it may solve at all.
        """
        self._round = round
        dice = np.random.default_rng([self._seed, round])
        order = dice.permutation(len(self._tried))
        count = min(count, len(order))
        untried = order[self._tried[order] == _NEVER][: math.ceil(self.config.untried * count)]
        rates = dice.beta(*self._beta(), size=(_DRAWS, len(order)))
        outside = np.maximum(self.config.low - rates, rates - self.config.high).clip(min=0.0)
        distance = outside.mean(axis=0)
        distance[untried] = -1.0  # they are in already
        nearest = order[np.argsort(distance[order], kind="stable")]
        return sorted(int(index) for index in nearest[:count])

    def record(self, index: int, passed: int, judged: int) -> None:
        """What came of a task in the round that picked last: `passed` of `judged` attempts. May be called again."""
        fading = self._fading()[index]
        self._passed[index] = self._passed[index] * fading + passed
        self._judged[index] = self._judged[index] * fading + judged
        self._tried[index] = self._round

    def rates(self) -> list[float]:
        """The mean of each task's distribution."""
        right, wrong = self._beta()
        return [float(rate) for rate in right / (right + wrong)]

    def state_dict(self) -> dict[str, Any]:
        """For JSON; of the tasks only those that were tried."""
        tried = np.flatnonzero(self._tried != _NEVER)
        columns = (tried, self._passed[tried], self._judged[tried], self._tried[tried])
        return {
            "count": len(self._tried),
            "round": self._round,
            "tried": [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: the state is of another number of tasks.
        """
        if state["count"] != len(self._tried):
            raise ValueError(
                f"the curriculum knows {state['count']} tasks, but there are {len(self._tried)} to choose from; go on "
                "with the tasks, the pool and the seed that the run began with, or begin another run"
            )
        self._round = state["round"]
        self._passed[:], self._judged[:], self._tried[:] = 0.0, 0.0, _NEVER
        for index, passed, judged, tried in state["tried"]:
            self._passed[index], self._judged[index], self._tried[index] = passed, judged, tried

    def _fading(self) -> NDArray[np.float64]:
        """For each task what an attempt in its last round counts for now; 1 where there was none."""
        since = np.where(self._tried == _NEVER, 0, self._round - self._tried)
        return np.asarray(0.5 ** (since / self.config.half_life))

    def _beta(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The two parameters of each task's distribution."""
        fading = self._fading()
        passed, judged = self._passed * fading, self._judged * fading
        mean = (passed.sum() + 0.5) / (judged.sum() + 1.0)  # Jeffreys' prior: neither 0 nor 1
        right = passed + self.config.prior * mean
        return right, judged - passed + self.config.prior * (1 - mean)
