"""Flags beside a recipe's settings: names whose feature is to come, other ways of writing a setting."""

import pytest

from eco import recipe as recipes
from eco.config import flat_name
from eco.flags import from_mapping, parse
from eco.interface import table


def load(*words: str, name: str = "demo") -> recipes.Recipe:
    return recipes.load(name, parse(list(words)))


def test_what_is_not_built_is_told_and_changes_nothing_else():
    recipe = load("--steps", "7", "--uroboros-enabled", "--hydra-lora-rank", "8", "--no-merge-fold-into-backbone")
    assert recipe.inactive_flags == ("--uroboros-enabled", "--hydra-lora-rank")
    plain = load("--steps", "7")
    assert plain.inactive_flags == ()
    assert recipe.model_dump(exclude={"inactive_flags"}) == plain.model_dump(exclude={"inactive_flags"})


def test_what_is_so_in_any_case_is_no_vain_wish():
    assert load("--data-backend", "local", "--crash-report-enabled", "--no-uroboros-enabled").inactive_flags == ()
    recipe = load("--data-backend", "hybrid", "--no-crash-report-enabled")
    assert recipe.inactive_flags == ("--data-backend hybrid", "--no-crash-report-enabled")
    assert recipe.data == load().data


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("--uroboros-enabled", "--no-uroboros-enabled"),
        ("--data-backend hybrid", "--data-backend local"),
    ],
)
def test_the_later_flag_takes_the_earlier_wish_back(earlier, later, tmp_path):
    assert load(*earlier.split(), *later.split()).inactive_flags == ()
    path = tmp_path / "recipe.yaml"
    recipes.save(load(*earlier.split()), path)
    assert load(name=str(path)).inactive_flags == (earlier,), "the run's own recipe still tells it"
    assert load(*later.split(), name=str(path)).inactive_flags == ()
    assert load(*earlier.split(), name=str(path)).inactive_flags == (earlier,)


def test_python_passes_them_too():
    overrides = {"uroboros-enabled": True, "hydra-enable": False, "replay-capacity": 5}
    recipe = recipes.load("demo", from_mapping(overrides))
    assert recipe.inactive_flags == ("--uroboros-enabled", "--replay-capacity")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--uroborus-enabled"], "unknown setting --uroborus-enabled .*; did you mean 'uroboros-enabled'"),
        (["--sigma-rl-mod", "grpo"], "did you mean 'sigma-rl-mode'"),
        (["--optimizer", "c3"], "no 'c3' in eco/optim"),
        (["--no-hydra-lora-rank"], "unknown setting --no-hydra-lora-rank"),
        (["--hydra-lora-rank"], "--hydra-lora-rank on the command line needs a value"),
        (["--uroboros-enabled", "10"], "--uroboros-enabled on the command line takes no value"),
        (["--no-amp", "10"], "--no-amp on the command line takes no value"),
    ],
)
def test_a_slip_is_an_error(words, message):
    with pytest.raises(ValueError, match=message):
        load(*words)


def test_an_alias_sets_what_it_stands_for():
    assert load("--precision", "bf16", "--no-amp").train.precision == "fp32"
    recipe = load("--sigma-rl-mode", "cispo", "--sigma-rl-clip-eps", "0.3", "--no-sigma-rl-adv-norm")
    meant = load("--objective", "cispo", "--rl-clip-eps", "0.3", "--no-rl-adv-norm")
    assert recipe.model_dump() == meant.model_dump() != load().model_dump()
    with pytest.raises(ValueError, match=r"clip: .*less than 1"):
        load("--sigma-rl-clip-eps", "3")


def test_a_name_of_the_table_is_neither_a_setting_nor_there_twice():
    settings = {
        name
        for recipe in map(recipes.load, recipes.names())
        for key, info, _ in recipes.settings(recipe)
        for name in (key, flat_name(info))
    }
    names = table().names()
    assert len(names) == len(set(names))
    assert settings.isdisjoint(names)
