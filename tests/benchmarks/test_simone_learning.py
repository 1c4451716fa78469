"""The arms of the comparison differ in what they say; the table pairs runs of one seed."""

import pytest

from benchmarks.simone_learning import ARMS, PLAIN, SMALL, Outcome, table
from eco import recipe as recipes
from eco.flags import from_mapping


def settings(arm: str) -> dict:
    recipe, own = ARMS[arm]
    return {key: value for key, _, value in recipes.settings(recipes.load(recipe, from_mapping(SMALL | own)))}


@pytest.mark.parametrize("arm", [arm for arm, (_, own) in ARMS.items() if PLAIN.items() <= own.items()])
def test_an_arm_of_one_part_has_no_other(arm):
    plain, changed = settings("simone, no part"), settings(arm)
    differing = {key for key in plain if plain[key] != changed[key]}
    assert differing == {key for key, value in ARMS[arm][1].items() if PLAIN.get(key) != value}


def test_the_plain_model_has_no_part_left():
    recipe = recipes.load("simone-laptop", from_mapping(SMALL | PLAIN))
    on = [name for name in type(recipe.model).model_fields if name.endswith("_weight") and getattr(recipe.model, name)]
    assert on == [] and not (recipe.model.policy_rank or recipe.model.forgetting or recipe.model.control)


def test_the_table_pairs_runs_of_one_seed():
    found = {
        (arm, seed): Outcome(arm, seed, value, told, 0.2, 1_300_000)
        for arm, seed, value, told in [
            ("decoder", 0, 1.3, None), ("decoder", 1, 1.2, None), ("control", 0, 1.25, 1.2), ("control", 1, 1.25, 1.2),
        ]
    }  # fmt: skip
    told = "1.2500 (told the metadata 1.2000)"
    expected = f"| control | 1.30 M | 1.2500 | 1.2500 | {told} | +0.0000 (-0.0500 to +0.0500) | 1.00 |"
    assert list(table(found))[-1] == expected
