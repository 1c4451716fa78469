"""`eco_train @train_sigma_args.txt`: the profile as a file of flags."""

from eco import recipe as recipes
from eco.commands.arguments import recipe_and_flags
from eco.config import flat_name
from eco.flags import SHIPPED, from_mapping, parse, read
from eco.interface import table
from eco.optim import c3o

ARGS = "@train_sigma_args.txt"
ON_THIS_MACHINE = ["--device", "cpu", "--no-require-cuda", "--steps", "20", "--data-backend", "local"]
OF_OPTIMIZERS = {
    "muon": {"muon-max-orthogonalized-dim": 8192},
    "c3o": {
        "c3o-beta1": 0.9,
        "c3o-beta2": 0.98,
        "c3o-damping": 1e-6,
        "c3o-block-scale-min": 0.6,
        "c3o-block-scale-max": 1.8,
    },
    "gnprox": {
        "gn-beta1": 0.9,
        "gn-beta2": 0.9,
        "gn-eps": 1e-8,
        "gn-damping": 1e-4,
        "gn-damping-min": 1e-4,
        "gn-damping-max": 1.0,
        "gn-damping-up": 1.08,
        "gn-damping-down": 0.97,
    },
}
"""With the values of the published interface."""
SETTINGS_AT_THEIR_DEFAULT = ["seed", "no-resume", "router-balance-lr", "router-jitter-noise", "dropout", "grad-clip"]


def test_the_shipped_profile_is_the_recipe_sigma():
    name, flags = recipe_and_flags(["demo", ARGS])
    assert name == "sigma"
    recipe = recipes.load(name, flags)
    assert (recipe.train.device, recipe.train.require_cuda, recipe.train.steps) == ("cuda", True, 20000)
    assert recipe.output_dir.endswith("/runs/sigma_main") and recipe.checkpoint.directory.endswith("/checkpoints")
    plain = recipes.load(name)
    # Shorter chunks are faster at rank 4; memory that is there need not be saved.
    here = {"chunk": 16, "instant_mode": "off", "instant_error_threshold": 0.05}
    assert recipe.model.model_copy(update=here) == plain.model
    own, optimizer = plain.optimizer, recipe.optimizer
    assert (own.name, optimizer.name) == ("adamw", "c3o")
    assert (optimizer.lr, optimizer.weight_decay) == (own.lr, own.weight_decay)
    assert isinstance(optimizer, c3o.Config) and (optimizer.credit_gain, optimizer.state_dtype) == (0.4, "bf16")
    assert recipe.credit.enabled
    assert {"--c3o-credit-speed-weight", "--data-backend hybrid", "--uroboros-enabled"} < set(recipe.inactive_flags)
    active = {"--steps", "--d-model", "--grpo-reward-fail", "--crash-report-enabled", "--c3o-foreach-fused"}
    assert not active & set(recipe.inactive_flags)


def test_the_command_line_overrides_the_shipped_profile():
    name, flags = recipe_and_flags(["demo", ARGS, *ON_THIS_MACHINE])
    recipe = recipes.load(name, flags)
    assert (recipe.train.device, recipe.train.require_cuda, recipe.train.steps) == ("cpu", False, 20)
    assert not any("data-backend" in words for words in recipe.inactive_flags)


def test_every_flag_of_the_interface_is_accepted():
    """The 236 names: those of the profile, those of the table, and the settings that the profile leaves alone."""
    profile = {flag.name for flag in read(SHIPPED / ARGS[1:])} - {
        "recipe",
        "instant-mode",
    }  # not of the published interface
    of_optimizers = [name for flags in OF_OPTIMIZERS.values() for name in flags]
    names = [*profile, *table().names(), *of_optimizers, *SETTINGS_AT_THEIR_DEFAULT]
    assert len({name.removeprefix("no-") for name in names}) == 236
    for optimizer, flags in OF_OPTIMIZERS.items():
        recipe = recipes.load("sigma", from_mapping({"optimizer": optimizer, **flags}))
        given = {flat_name(info): value for _, info, value in recipes.settings(recipe)}
        assert flags.items() <= given.items()
    valued = [name for name in SETTINGS_AT_THEIR_DEFAULT if name != "no-resume"]
    words = [word for name in (*valued, *table().settings) for word in (f"--{name}", "0")]
    for off in ("", "no-"):
        recipe = recipes.load("sigma", parse(["--no-resume", *words, *(f"--{off}{name}" for name in table().switches)]))
        vain = {name for name, state in table().switches.items() if state == bool(off)}
        assert set(recipe.inactive_flags) >= {f"--{off}{name}" for name in vain}
