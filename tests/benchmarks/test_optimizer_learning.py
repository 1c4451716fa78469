"""The comparison of optimizers: its arithmetic, and that an arm differs in its optimizer alone."""

import pytest

from benchmarks import optimizer_learning, outcomes
from benchmarks.optimizer_learning import ARMS, SETTINGS, Outcome, best_lr, main, next_rates, steps_to, table
from eco import recipe as recipes
from eco.flags import from_mapping


def outcome(arm: str, lr: float, seed: int, *losses: float) -> Outcome:
    return Outcome(arm, lr, seed, 10.0, [[10.0 * step, loss] for step, loss in enumerate(losses)])


def test_steps_are_read_between_two_evaluations():
    curve = outcome("muon", 1e-3, 0, 8.0, 6.0, 6.5, 4.0).curve
    assert steps_to(curve, 7.0) == 5
    assert steps_to(curve, 5.0) == pytest.approx(20 + 10 * 1.5 / 2.5)
    assert steps_to(curve, 3.9) is None


def test_tuning_goes_on_while_the_outermost_rate_is_the_best():
    middle = [outcome("muon", lr, 0, 8, loss) for lr, loss in ((1e-3, 6), (2e-3, 5), (4e-3, 7))]
    assert next_rates(middle) == []
    rising = [outcome("muon", lr, 0, 8, loss) for lr, loss in ((1e-3, 7), (2e-3, 6), (4e-3, 5))]
    assert next_rates(rising) == [8e-3]
    assert next_rates([outcome("muon", 1e-3, 0, 8, 4), *rising[1:]]) == [5e-4]
    assert next_rates([*rising, outcome("muon", 8e-3, 0, 8, 4), outcome("muon", 16e-3, 0, 8, 3)]) == []


def test_the_table_takes_the_best_rate_and_pairs_runs_of_one_seed():
    found = [
        outcome("adamw", 1e-3, 0, 8, 6, 5), outcome("adamw", 2e-3, 0, 8, 7, 6), outcome("adamw", 1e-3, 1, 8, 5, 4),
        outcome("muon", 2e-3, 0, 8, 5, 3), outcome("muon", 2e-3, 1, 8, 4, 3), outcome("muon", 1e-3, 0, 8, 7, 6),
    ]  # fmt: skip
    assert (best_lr("adamw", found), best_lr("muon", found)) == (1e-3, 2e-3)
    assert list(table(found))[-1] == "| muon | 0.002 | 3.000 (3.000, 3.000) | 0.50 (0.50, 0.50) | 1.00 |"


def test_runs_of_other_lengths_are_repeated_and_the_reference_is_always_there(monkeypatch, tmp_path, capsys):
    ran, file = [], tmp_path / "outcomes.jsonl"

    def train_arm(arm, lr, seed, steps):
        ran.append((arm, lr, steps))
        return Outcome(arm, lr, seed, 1.0, [[0, 8.0], [steps, abs(lr - 0.002)]])

    monkeypatch.setattr(optimizer_learning, "train_arm", train_arm)
    outcomes.keep(file, outcome("muon", 0.001, 0, 8, 6))  # of 10 steps
    outcomes.keep(file, Outcome("muon", 0.002, 0, 1.0, [[0, 8.0], [20, 0.0]]))
    main(["--arms", "muon", "--seeds", "1", "--steps", "20", "--out", str(file)])
    assert ran == [
        (arm, lr, 20) for arm in ("adamw", "muon") for lr in (1e-3, 2e-3, 4e-3) if (arm, lr) != ("muon", 2e-3)
    ]
    with pytest.raises(ValueError, match="--arms moun: there is adamw, muon"):
        main(["--arms", "moun"])


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_differs_in_its_optimizer_alone(arm):
    base, other = (recipes.load("demo", from_mapping(SETTINGS | ARMS[name])).model_dump() for name in ("adamw", arm))
    assert {key for key in base if base[key] != other[key]} <= {"optimizer", "credit"}
