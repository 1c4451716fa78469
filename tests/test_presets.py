"""`--preset tiny`: the sizes of a smaller recipe, at their place among the flags."""

import pytest

from eco import recipe as recipes
from eco.cli import main
from eco.commands.arguments import recipe_and_flags
from eco.flags import from_mapping, parse

PROFILE = "@train_sigma_args.txt"


def load(*words, name="sigma"):
    return recipes.load(name, parse(list(words)))


def settings(recipe):
    return {key: value for key, _, value in recipes.settings(recipe) if key != "description"}


@pytest.mark.parametrize(("preset", "recipe"), [("main", "sigma"), ("small", "sigma-small"), ("tiny", "sigma-tiny")])
def test_a_preset_of_a_recipe_is_the_recipe_of_that_size(preset, recipe):
    assert settings(load("--preset", preset)) == settings(load(name=recipe))
    assert settings(load("--preset", preset, name="sigma-tiny")) == settings(load(name=recipe))
    assert settings(recipes.load("sigma", from_mapping({"preset": preset}))) == settings(load(name=recipe))


def test_later_flags_win_and_earlier_ones_lose():
    recipe = load("--d-model", "96", "--preset", "tiny", "--steps", "130")
    assert (recipe.model.width, recipe.train.steps) == (128, 130)
    assert settings(load("--preset", "tiny", "--preset", "small")) == settings(load(name="sigma-small"))
    assert settings(load("--preset", "tiny", "--preset", "main")) == settings(load())


def test_what_is_no_size_stays():
    recipe = load("--mamba-ratio", "3", "--optimizer", "muon", "--lr", "0.02", "--preset", "tiny")
    assert (recipe.model.mamba_ratio, recipe.model.layers) == (3, 6)
    assert (recipe.optimizer.name, recipe.optimizer.lr) == ("muon", 0.02), "adamw's state_dtype asks nobody"


def test_the_profile_at_tiny_size():
    words = [PROFILE, "--preset", "tiny", "--device", "cpu", "--no-require-cuda", "--save-interval", "65"]
    recipe = recipes.load(*recipe_and_flags(["demo", *words]))
    tiny = load(name="sigma-tiny")
    names = "chunk", "instant_mode", "instant_error_threshold"  # the profile's own, whatever its size
    assert recipe.model.model_copy(update={name: getattr(tiny.model, name) for name in names}) == tiny.model
    assert (recipe.train.steps, recipe.checkpoint.every) == (tiny.train.steps, 65)
    assert recipe.checkpoint.directory.endswith("/checkpoints")


def test_a_recipe_of_ones_own_has_the_presets_of_what_it_extends(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("extends: sigma\ntrain: {batch_size: 2}\n")
    recipe = load("--preset", "tiny", name=str(own))
    assert (recipe.model.width, recipe.train.batch_size) == (128, 2)


def test_errors_name_what_there_is(capfd):
    with pytest.raises(ValueError, match=r"no preset 'tiyn' on the command line; did you mean 'tiny'\?; .*main, small"):
        load("--preset", "tiyn")
    with pytest.raises(ValueError, match="no preset 'tiny' on the command line; demo has none"):
        load("--preset", "tiny", name="demo")
    assert main(["train", "sigma", "--preset"]) == 1
    assert "no preset ''" in capfd.readouterr().err
