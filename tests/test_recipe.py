import itertools
from collections import Counter

import pytest
import yaml

from eco import plugins
from eco import recipe as recipes
from eco.config import flat_name
from eco.flags import from_mapping, parse, read


def load(*words: str, name: str = "demo") -> recipes.Recipe:
    return recipes.load(name, parse(list(words)))


def write(folder, text, name="mine.yaml"):
    path = folder / name
    path.write_text(text)
    return str(path)


def test_dotted_keys_and_flat_names_set_the_same_field():
    assert load("--train.steps", "60").train.steps == load("--steps", "60").train.steps == 60
    assert load("--no-resume").resume is False
    assert load("--train.compile").train.compile is True
    assert load("--no-train.compile", "--d-model", "64", "--n-heads", "2").model.width == 64


def test_the_last_flag_wins_and_recipes_win_over_what_they_extend(tmp_path):
    assert load("--steps", "1", "--train.steps", "2").train.steps == 2
    child = write(tmp_path, "extends: demo\ntrain: {steps: 5}\n")
    recipe = load(name=child)
    assert recipe.train.steps == 5
    assert recipe.model == load().model


def test_arc_trains_as_published():
    recipe = load(name="trm-arc")
    assert recipe.data.size == 30
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay) == (1e-4, 0.1)
    assert (recipe.optimizer.table_lr, recipe.optimizer.table_weight_decay) == (1e-2, 0.1)


def test_a_section_without_keys_changes_nothing(tmp_path):
    for text in ("extends: demo\ntrain:\n", "extends: demo\ntrain:\nlog:\n"):
        child = write(tmp_path, text)
        assert load(name=child).model_dump() == load().model_dump()
        assert load("--steps", "5", "--quiet", name=child).train.steps == 5
    with pytest.raises(ValueError, match="train must be a section of keys, not 5"):
        load("--steps", "5", name=write(tmp_path, "extends: demo\ntrain: 5\n"))


def test_lists_dictionaries_and_none_are_understood():
    recipe = load("--prompts", "a", "b", "--train.loss_weights.lm", "0.5", "--max-tokens", "none")
    assert recipe.prompts == ("a", "b")
    assert recipe.train.loss_weights == {"lm": 0.5}
    assert recipe.train.tokens is None


def test_a_choice_of_numbers_is_understood():
    assert load("--data.size", "9", "--data.clues", "0", name="trm-sudoku4").data.size == 9
    assert load("--model.latents=1", name="trm-sudoku4").model.latents == 1
    with pytest.raises(ValueError, match=r"data.size: Input should be 4, 6 or 9 \(got '5'\)"):
        load("--data.size", "5", name="trm-sudoku4")


def test_values_from_python_are_taken_as_they_are():
    recipe = recipes.load("demo", from_mapping({"train.steps": 3, "prompts": ["x y"], "resume": False}))
    assert (recipe.train.steps, recipe.prompts, recipe.resume) == (3, ("x y",), False)


def test_another_plugin_keeps_only_the_keys_that_it_knows():
    recipe = load("--optimizer", "adamw", "--lr", "0.001")
    assert (recipe.optimizer.name, recipe.optimizer.lr) == ("adamw", 0.001)
    other = load("--family", "gpt2")
    assert other.model.family == "gpt2"
    assert other.model.width == load().model.width


def test_saving_and_loading_gives_an_equal_recipe(tmp_path):
    recipe = load("--steps", "7", "--data.paths", "some/folder")
    recipes.save(recipe, tmp_path / "recipe.yaml")
    again = recipes.load(str(tmp_path / "recipe.yaml"))
    assert again.model_dump() == recipe.model_dump()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train.stepz", "6"], "unknown setting --train.stepz on the command line; did you mean 'train.steps'"),
        (["--stepss", "6"], "did you mean 'steps'"),
        (["--steps", "-3"], "train.steps: .*greater than 0"),
        (["--steps", "many"], "train.steps: .*integer.*many"),
        (["--steps"], "--steps on the command line needs a value"),
        (["--steps", "1", "2"], "takes one value, not 2"),
        (["--d-model", "65"], "65"),
        (["--optimizer", "adamww"], "no 'adamww' in eco/optim; did you mean 'adamw'"),
        (["--family", "gtp2"], "did you mean 'gpt2'"),
    ],
)
def test_bad_flags_say_what_and_where(words, message):
    with pytest.raises(ValueError, match=message):
        load(*words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: demo\ntrian: {steps: 5}\n", "unknown key trian; did you mean 'train'"),
        ("extends: demo\ntrain: {stepz: 5}\n", "unknown key train.stepz; did you mean 'steps'"),
        ("extends: demoo\n", "no recipe 'demoo'; did you mean 'demo'"),
        ("train: {steps: 5}\n", "no model.family"),
        ("- a list\n", "must be a YAML mapping"),
        ("a: [\n", "cannot read the recipe"),
    ],
)
def test_bad_recipes_say_what_and_where(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load(name=write(tmp_path, text))


def test_a_recipe_that_extends_itself_is_refused(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text(f"extends: {path}\n")
    with pytest.raises(ValueError, match="extends itself"):
        load(name=str(path))


def test_all_errors_are_listed_not_the_first():
    with pytest.raises(ValueError, match=r"(?s)train.steps.*train.batch_size"):
        load("--steps", "0", "--batch-size", "0")


def test_no_flag_means_two_settings_whatever_is_plugged_in(tmp_path):
    """Of two settings with one flat name a flag would set the last, and nobody would be told."""
    rooms = [plugins.names(plug.room) + [None] * bool(plug.otherwise) for plug in recipes.PLUGS.values()]
    for chosen in itertools.product(*rooms):
        named = zip(recipes.PLUGS.items(), chosen, strict=True)
        plugged = {section: {plug.key: name} for (section, plug), name in named if name is not None}
        recipe = load(name=write(tmp_path, yaml.safe_dump(plugged)))
        flags = Counter(flag for key, info, _ in recipes.settings(recipe) for flag in {key, flat_name(info) or key})
        assert [flag for flag, settings in flags.items() if settings > 1] == [], chosen


@pytest.mark.parametrize("name", ["output_dir", "data.paths"])
def test_an_empty_path_is_not_the_working_directory(name):
    with pytest.raises(ValueError, match="path is empty"):
        recipes.load("demo", parse([f"--{name}", ""]))


def test_a_setting_of_another_optimizer_waits_in_a_file_and_is_refused_on_the_command_line(tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text("--optimizer muon\n--muon-momentum 0.9\n--lr 0.5\n")
    recipe = recipes.load("demo", [*read(file), *parse(["--optimizer", "adam_atan2"])])
    assert (recipe.optimizer.name, recipe.optimizer.lr) == ("adam_atan2", 0.5)
    assert recipe.inactive_flags == ("--muon-momentum",)
    assert recipes.load("demo", read(file)).optimizer.momentum == 0.9
    with pytest.raises(ValueError, match=r"--muon-momentum on the command line is a setting of optimizer .*muon or "):
        recipes.load("demo", parse(["--optimizer", "adamw", "--muon-momentum", "0.9"]))


def test_credit_without_its_optimizer_is_refused():
    with pytest.raises(ValueError, match="c3o credit is enabled but optimizer is not 'c3o'"):
        recipes.load("demo", parse(["--optimizer", "muon", "--c3o-credit-enabled"]))
